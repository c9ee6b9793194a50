"""What every rationale of a task must add: what the model cannot know, and what to do next.

No sentence here holds a number or a name of its own; what it holds of the picture is read in
limit_words.py.
"""

from dataclasses import dataclass

DISCLAIMER = (
    "This is decision support, not a diagnosis: a clinician who knows the patient decides, and "
    "may well be right against the model."
)


@dataclass(frozen=True)
class TaskWords:
    """Sentences of one task."""

    unknown: str  # what one picture does not tell
    unseen: str  # what the preparation or the method cannot see
    when_called: str  # what a clinician might check next; {where} is where the evidence lies
    when_called_nowhere: str  # the same where nothing in the picture speaks for it
    when_not_called: str


TASK_WORDS: dict[str, TaskWords] = {
    "chestx": TaskWords(
        unknown="It sees this one picture and does not know the patient's history, symptoms, "
        "laboratory values or earlier pictures.",
        unseen="Small or faint findings may be lost at the size of picture that the model sees, "
        "and devices, positioning or an expiratory film can look like disease.",
        when_called="Look at the {where} at full resolution, compare with earlier pictures, and "
        "consider a lateral view or CT where it would change what is done.",
        when_called_nowhere="Read the picture afresh at full resolution: no place of it carries "
        "this answer.",
        when_not_called="An answer below one half does not rule a finding out; go by symptoms and "
        "read the picture as usual.",
    ),
    "retina": TaskWords(
        unknown="It sees this one photograph and does not know the duration of diabetes, blood "
        "sugar, blood pressure, visual acuity, the other eye or earlier photographs.",
        unseen="Thickening of the macula cannot be seen in a single photograph, the far periphery "
        "is outside it, and single microaneurysms may be lost at the size that the model sees.",
        when_called="Look at the {where} at full resolution, grade the other eye, and consider "
        "OCT of the macula or a dilated examination.",
        when_called_nowhere="Grade the photograph afresh at full resolution: no place of it "
        "carries this answer.",
        when_not_called="Grade the photograph as usual: an answer below one half does not rule "
        "disease out, in it or outside it.",
    ),
    "pathoscan": TaskWords(
        unknown="It sees this one tile and does not know the rest of the slide, the site of "
        "biopsy, the clinical question, other stains or earlier specimens.",
        unseen="Folds, thickness and staining can look like disease, and invasion is judged on "
        "more than a tile.",
        when_called="Look at the {where} of the tile and its surroundings on the slide, and "
        "consider immunohistochemistry or a second reading.",
        when_called_nowhere="Read the slide afresh: no place of this tile carries this answer.",
        when_not_called="An answer below one half clears neither the tile nor the slide; read both "
        "as usual.",
    ),
}
OTHER = TaskWords(
    unknown="It sees this one picture and nothing else of the patient.",
    unseen="Small or faint signs may be lost at the size of picture that the model sees.",
    when_called="Look at the {where} at full resolution.",
    when_called_nowhere="Read the picture afresh: no place of it carries this answer.",
    when_not_called="An answer below one half does not rule anything out.",
)
WHEN_NOVEL = (
    "First check that this is a picture of the right kind, upright and of usual quality; then read "
    "it without the model."
)
WHEN_NOT_SURE = "Read this case without the model: it does not settle it."
