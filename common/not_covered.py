"""What leaves a site beside what epsilon covers: said wherever an epsilon is shown.

Once, for the sites' terminals and the coordinator's reports, so that neither promises more.
"""

from collections.abc import Mapping

# As a list names it → in full.
KINDS: Mapping[str, str] = {
    "data cards": "data cards: counts of pictures and patients by class and by sign",
    "numbers of pictures": "numbers of pictures",
    "validation measurements": (
        "measurements on the sites' validation parts, and the count of sites above a floor"
    ),
    "times": (
        "how long training took, who took part in which round, and refusals with their reasons"
    ),
    "releases without noise": "updates and training metrics of earlier runs without noise",
    "the same patient elsewhere": (
        "a patient with pictures at several sites: what these spend adds up"
    ),
}

NOT_COVERED: tuple[str, ...] = tuple(KINDS.values())
NOT_COVERED_LINE = f"Not covered: {', '.join(KINDS)}."
