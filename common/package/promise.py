"""What a prediction set promises, in words, and what it does not. Light: no torch."""

from common.metrics.conformal import coverage_floor
from common.package.schema import Conformal
from common.tasks import Task


def promise(conformal: Conformal, task: Task) -> str:
    """Return what the prediction sets of a task promise: a few sentences.

    The coverage holds for pictures that are exchangeable with the calibration part's; nothing is
    said for any other. It is an average over calibration parts: few pictures may by luck have given
    less, which is said with the coverage that one part in twenty falls short of.
    """
    percent = f"{100 * conformal.coverage:g} %"
    fewest = min(conformal.pictures.values())
    resting = f"{fewest} calibration pictures, one per patient"
    # Rounded down: more must not be said than is so.
    floor = int(100 * coverage_floor(fewest, coverage=conformal.coverage))
    if task.kind == "multi-label":
        covered = (
            f"For each finding by itself, the set holds the right answer in at least {percent} of "
            "new patients with the finding and of those without it; findings are not covered "
            f"jointly. The rarest of these answers rests on {resting}."
        )
    elif conformal.is_per_answer:
        what = "grade" if task.kind == "ordinal" else "class"
        covered = (
            f"The set holds the right {what} in at least {percent} of new patients of each "
            f"{what}. The rarest {what} rests on {resting}."
        )
    else:
        covered = (
            f"The set holds the right grade in at least {percent} of new patients, on average "
            f"over all grades; a rare grade may be covered less. It rests on {resting}."
        )
    return (
        f"{covered} That is on average over calibration parts; of those with no more pictures than "
        f"that one in twenty covers less than {floor} %. This is so for patients like those of the "
        "calibration part alone: for another scanner, hospital or population nothing is promised."
    )
