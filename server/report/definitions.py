"""What the words of a report mean, and what it does not claim, for readers of every trade.

Light: works on a summary alone.
"""

from collections.abc import Mapping

from server.record.summary import Standing, Summary

RESEARCH_ONLY = "Research software for decision support, not a medical device."
GENERATED = (
    "Generated phantom pictures: shows that the machinery learns and looks, "
    "says nothing about patients."
)
MEASURED_ON = (
    "Measured on the coordinator's reference set, part selection, which also steers early "
    "stopping: expect somewhat lower numbers on pictures that decided nothing."
)
MARKS: Mapping[Standing, str] = {"better": "▲", "worse": "▼", "unclear": "≈"}
DEFINITIONS: Mapping[str, str] = {
    "Baseline": (
        "what needs no model: for classification the commonest answer (0.5 for AUROC), for "
        "the map the same map laid down at random"
    ),
    "▲ ▼ ≈": "the whole 95 % interval lies above the baseline, lies below it, or cannot be told",
    "Map": "which places of the picture added to the prediction, and how much",
    "Map peak in lesion": "share of cases whose brightest place lies inside the outlined lesion",
    "Map energy in lesion": "share of all that speaks for the finding that lies inside the outline",
    "Map–lesion overlap, IoU": (
        "brightest places, as large together as the lesion: the area they share with it over the "
        "area they cover together"
    ),
    "Cases": "pictures; for the map's measures, pairs of a picture and a finding with an outline",
    "Patients": "those with a positive picture; an interval needs enough of them",
}

SIGN_WORDS: Mapping[str, str] = {
    "Signs that carry a class": (
        "of all that speaks for the class in the pictures that show it, the share that lies where "
        "the sign's own map lies (the fewest places that hold four fifths of what speaks for the "
        "sign). By chance: the same evidence laid down anywhere in its picture. A sign carries a "
        "class for sure where the whole interval above chance lies above 0, and that of the rank "
        "correlation as well"
    ),
    "Sign said to be there": "share of these pictures in which the model gives it more than 50 %",
    "Goes with the answer": (
        "rank correlation of the model's answers on sign and class over all pictures: 1 always "
        "together, 0 not at all, -1 the one instead of the other"
    ),
    "What it does not claim": (
        "that the model reasons by the sign. Sign and class are read from the same places of one "
        "network, and findings that come together look alike here. Chance counts the whole "
        "picture: two maps that merely keep to the body lie above it. Each pair is judged by "
        "itself: of many, some will seem sure by luck. Only a high share and a "
        "correlation together fit with a clinician's reasons; a low one speaks against them. "
        "Whether the model knows the sign at all stands in the table of signs beside the diagnosis"
    ),
}
METHOD_WORDS: Mapping[str, str] = {
    "Method comparison": (
        "several ways of asking the same model for its reasons, on the same pictures: share of the "
        "map inside the outlined lesion, whether its peak lies inside, how soon the answer falls "
        "when the map's places are painted over (deletion) and rises when they are brought back "
        "(insertion), each with what chance gives in brackets"
    ),
    "Like the model's own map": (
        "rank correlation of the places of both maps; 0 by chance. Methods that see the model from "
        "outside and agree with its own map make that map more credible"
    ),
    "What it does not claim": (
        "that the best row explains best. A map can miss the lesion because the model does, and "
        "painted pictures are unlike any that the model has seen. A few pictures give an "
        "impression of this model; the study of methods measures more, on more pictures"
    ),
}
SITE_WORDS = (
    "How far the model that a site trained on its own looks where the model of all looks: rank "
    "correlation of the maps, 1 for the same places, 0 by chance, with 95 % interval. A site that "
    "stands apart may have other scanners, patients or labels; it is not said to be wrong. Each "
    "class is judged by itself: of many, in one a site may stand apart by luck."
)


def lead(summary: Summary) -> tuple[str, ...]:
    """Return what every reader must know first, one sentence or two each."""
    made = [about.title for about in summary.tasks.values() if about.generated]
    if not made:
        return (RESEARCH_ONLY,)
    whose = "" if len(made) == len(summary.tasks) else f" ({', '.join(made)})"
    return (f"{GENERATED}{whose}", RESEARCH_ONLY)
