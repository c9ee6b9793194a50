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


def lead(summary: Summary) -> tuple[str, ...]:
    """Return what every reader must know first, one sentence or two each."""
    made = [about.title for about in summary.tasks.values() if about.generated]
    if not made:
        return (RESEARCH_ONLY,)
    whose = "" if len(made) == len(summary.tasks) else f" ({', '.join(made)})"
    return (f"{GENERATED}{whose}", RESEARCH_ONLY)
