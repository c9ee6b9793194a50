"""A run's maps in words and rows: alarms, drift, shortcuts, sites that differ.

Light: works on a summary alone.
"""

from collections.abc import Iterator

from server.record.class_words import in_words
from server.record.summary import (
    EstimateEntry,
    ExplanationEntry,
    RoundEntry,
    Summary,
    TaskLooksEntry,
)
from server.report.comparison import interval, number, when

ALARMS_TAG = "fovea.explanation_alarms"
PLACES = {
    "outside_anatomy": "Outside the anatomy",
    "at_border": "At the border",
    "on_marker": "On burnt-in markers",
}
COLUMNS = ("Class", "Like the round before", *PLACES.values())
WHAT_IT_MEANS = (
    "Like the round before: rank correlation of a class's maps with those of the round measured "
    "before, 1 for the same places, 0 by chance. The other columns: share of what speaks for the "
    "class that lies there, the share of the area in brackets; empty where it is not known where "
    "that place is. Markers and anatomy are known exactly for generated pictures, the lungs where "
    "a data set outlines them; in other pictures nobody looks for markers."
)
NO_ALARM = "No alarm: no class's maps went clearly beyond a threshold."


def alarms_text(entry: RoundEntry) -> str:
    """Return a round's alarms as the text of a tag."""
    found = entry.explanation
    sentences = () if found is None else tuple(alarm.sentence for alarm in found.alarms)
    said = " ".join(sentences) or "no alarm."
    return f"{when(entry.round)}: {said}"


def last_watched(summary: Summary) -> tuple[RoundEntry, ExplanationEntry] | None:
    """Return the last round whose maps were watched, None if there is none."""
    watched = [(r, r.explanation) for r in summary.rounds if r.explanation is not None]
    return watched[-1] if watched else None


def is_watched(summary: Summary) -> bool:
    """Say whether anybody watched the maps of this run."""
    return last_watched(summary) is not None


def standing_alarms(summary: Summary) -> tuple[str, ...]:
    """Return the alarms of the last watched round, each with all it rests on."""
    found = last_watched(summary)
    return () if found is None else tuple(alarm.sentence for alarm in found[1].alarms)


def former_alarms(summary: Summary) -> tuple[str, ...]:
    """Say of each earlier round with alarms how many there were."""
    found = last_watched(summary)
    if found is None:
        return ()
    return tuple(
        f"{when(entry.round)}: {_count(len(entry.explanation.alarms))}"
        for entry in summary.rounds
        if entry.explanation is not None and entry.explanation.alarms and entry is not found[0]
    )


def watched_sentence(summary: Summary, task: str) -> str:
    """Say what was looked at of a task in the last watched round, "" if nothing was."""
    found = last_watched(summary)
    looks = None if found is None else found[1].tasks.get(task)
    if found is None or looks is None:
        return ""
    since = "" if looks.since is None else f", drift since {when(looks.since)}"
    return (
        f"{when(found[0].round)[:1].upper()}{when(found[0].round)[1:]}: {looks.pictures} of "
        f"{looks.of_pictures} reference pictures{since} on a fixed {looks.drift_pictures}."
    )


def cost_sentence(summary: Summary) -> str:
    """Say what the maps' numbers cost over the run, and which sites were compared at last."""
    watched = [r.explanation for r in summary.rounds if r.explanation is not None]
    if not watched:
        return ""
    shares = sorted(e.share for e in watched if e.share is not None)
    cost = ""
    if shares:
        cost = f"These numbers added {shares[len(shares) // 2]:.0%} to an evaluation (median). "
    over = sum(bool(e.remark) for e in watched)
    told = f"More than allowed in {over} of {len(watched)} rounds. " if over else ""
    return f"{cost}{told}Sites in the last round: {watched[-1].sites_note}."


def look_rows(summary: Summary, task: str) -> list[tuple[str, ...]]:
    """Return the rows below COLUMNS for the last watched round, one per class."""
    found = last_watched(summary)
    looks = None if found is None else found[1].tasks.get(task)
    return [] if looks is None else list(_rows(looks))


def _rows(looks: TaskLooksEntry) -> Iterator[tuple[str, ...]]:
    for name, shares in looks.shares.items():
        drift = looks.drift.get(name, {}).get("spearman")
        yield (in_words(name), _cell(drift), *(_share(shares.get(place)) for place in PLACES))


def _cell(entry: EstimateEntry | None) -> str:
    if entry is None or entry.value is None:
        return "–"
    bounds = "" if entry.low is None else f" ({interval(entry)})"
    return f"{number(entry.value)}{bounds}"


def _share(entry: EstimateEntry | None) -> str:
    if entry is None or entry.value is None:
        return "–"
    area = "" if entry.chance is None else f" ({entry.chance:.0%})"
    return f"{entry.value:.0%}{area}"


def _count(alarms: int) -> str:
    return f"{alarms} alarm" if alarms == 1 else f"{alarms} alarms"
