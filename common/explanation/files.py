"""Reads the JSON beside a page, with everything checked that an explanation promises."""

from pathlib import Path

from pydantic import ValidationError

from common.errors import DataError
from common.explanation.schema import Explanation


def read_explanation(path: Path) -> Explanation:
    """Return a written explanation.

    Raises DataError for a file that is missing or is no explanation of this format.
    """
    try:
        return Explanation.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path.") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = "/".join(map(str, first["loc"])) or "the document"
        raise DataError(
            f"{path}: is no explanation of this version ({place}: {first['msg']}); "
            "make it again with `fovea explain`."
        ) from error
