"""What is said of an error that nobody foresaw: where it came, never what it said.

A library's own words may repeat what a file holds: a patient's name in a header, pixels, a path
inside an archive. Its kind and the place in Fovea's code are enough to find the fault.
"""

from traceback import walk_tb

from common.errors import FoveaError

OURS = ("common.", "client.", "server.")


def breakdown(error: Exception) -> str:
    """Return the kind of an error and the last place in Fovea's own code, in a few words."""
    place = ""
    for frame, line in walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith(OURS):
            place = f" in {module}, line {line}"
    return f"{type(error).__name__}{place}"


def said(error: FoveaError) -> str:
    """Return one of Fovea's own messages, without what a library said of a value in the file.

    A reader that could not make sense of a header field quotes it: ``invalid literal for int():
    'Smith^John'``. What the system says of a file as such (OSError) stays.
    """
    text, cause = str(error), error.__cause__
    if cause is None or isinstance(cause, OSError | FoveaError) or not str(cause):
        return text
    return text.replace(str(cause), type(cause).__name__)
