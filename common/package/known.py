"""What cannot be known of a model, and from how many pictures it could be."""

from dataclasses import dataclass

from common.package.responses import Responses

FEWEST_CALIBRATION_PATIENTS = 20  # below this a temperature is a guess


@dataclass(frozen=True)
class NotKnown:
    """Something that could not be fitted."""

    why: str  # in words, a sentence


def lack(responses: Responses, needed: int, for_what: str) -> str:
    """Return why nothing can be fitted to a calibration part, in a sentence; "" where it can.

    Args:
        responses: To the calibration part.
        needed: The fewest patients that suffice.
        for_what: What is to be fitted, for the sentence.
    """
    if not len(responses):
        return (
            "The reference set has no calibration part. Give it a share in "
            "data.reference_split.calibration."
        )
    if responses.num_patients < needed:
        return (
            f"The calibration part has {responses.num_patients} patients, {for_what} needs "
            f"{needed}. Enlarge the reference set or its calibration part."
        )
    if not responses.is_finite():
        return (
            "The model has diverged: some of its numbers are not finite. Lower the learning rate."
        )
    return ""
