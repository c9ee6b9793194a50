"""Pictures of a run's maps: on average, at best and worst, one case over rounds and over sites."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from common.datasets.shard import Shard
from common.learning.evaluate import TaskPredictions, positive_logits
from server.measuring.explanation_averages import AverageLook
from server.measuring.explanation_sites import SiteExample
from server.measuring.overlay_cases import Choice
from server.measuring.overlays import (
    OverlayCase,
    OverlayMap,
    OverlayTile,
    draw_tiles,
    energy_line,
    in_full_colour,
    save_png,
)
from server.record.class_words import in_words

COLUMNS = 6
OWN_SCALE = "each class on a scale of its own: where, not how much"
EACH_MODEL = "each model on a scale of its own: where, not how much"
EXTREMES = 3  # at each end
ROUNDS_SHOWN = 12  # of one case, at most

Seen = tuple[OverlayCase, OverlayMap]


def extreme_choices(
    predicted: TaskPredictions, shard: Shard, *, count: int = EXTREMES
) -> tuple[tuple[Choice, ...], tuple[Choice, ...]]:
    """Return the cases with most and with least of their map in the lesion, one per patient.

    Only pictures with an outlined lesion are judged. None is in both; best and worst come first.
    """
    pairs = [
        Choice(index, logit)
        for index in predicted.indices.tolist()
        for logit in positive_logits(shard, index)
    ]
    energies = {
        choice: case.localisation.energy
        for choice, case in zip(pairs, predicted.localised, strict=True)
        if case.localisation is not None
    }
    # By place in the shard where energies are equal, so that the choice is always the same.
    ranked = sorted(energies, key=lambda c: (-energies[c], c.index, c.logit))
    best = _one_per_patient(ranked, shard, count, taken=set())
    taken = {int(shard.patients[choice.index]) for choice in best}
    worst = _one_per_patient(ranked[::-1], shard, count, taken=taken)
    return best, worst


def draw_averages(averages: Sequence[AverageLook], path: Path, *, title: str) -> None:
    """Draw where a model looks on average, a tile for each class with positive pictures."""
    tiles = []
    for look in averages:
        total = float(look.evidence.sum())
        share = look.evidence / total if total > 0 else look.evidence
        seen = OverlayMap(share.astype(np.float32), total, "", None, None, None)
        name = in_words(look.class_name)
        lines = (name, f"mean of {look.pictures} pictures", energy_line(seen))
        tiles.append(OverlayTile(look.image, None, in_full_colour(seen), lines))
    if tiles:
        note = "over the mean picture of those that show it; pictures are not moved to fit"
        drawn = draw_tiles(
            tiles, title=title, note=note, outline=None, columns=COLUMNS, scale=OWN_SCALE
        )
        save_png(drawn, path)


def draw_extremes(
    best: Sequence[Seen], worst: Sequence[Seen], path: Path, *, title: str, outline: str
) -> None:
    """Draw the cases in which a model looks best, then those in which it looks worst."""
    tiles = [
        OverlayTile(
            case.image,
            case.roi,
            seen,
            (f"{end}: {case.question}", seen.prediction, energy_line(seen)),
        )
        for end, cases in (("best", best), ("worst", worst))
        for case, seen in cases
    ]
    if tiles:
        note = "by the share of the map inside the outline; chosen after the fact, both ends"
        drawn = draw_tiles(tiles, title=title, note=note, outline=outline, columns=COLUMNS)
        save_png(drawn, path)


def draw_strip(
    case: OverlayCase, rounds: Mapping[int, OverlayMap], path: Path, *, title: str, outline: str
) -> None:
    """Draw one case as the models of some rounds saw it, the first and the last among them."""
    numbers = sorted(rounds)
    if len(numbers) > ROUNDS_SHOWN:
        chosen = np.linspace(0, len(numbers) - 1, ROUNDS_SHOWN).round().astype(int)
        numbers = [numbers[place] for place in chosen.tolist()]
    tiles = [
        OverlayTile(
            case.image,
            case.roi,
            rounds[number],
            (
                f"round {number}" if number else "before training",
                rounds[number].prediction,
                energy_line(rounds[number]),
            ),
        )
        for number in numbers
    ]
    if tiles:
        note = f"asked: {case.question}  truth: {case.truth}"
        drawn = draw_tiles(tiles, title=title, note=note, outline=outline, columns=COLUMNS)
        save_png(drawn, path)


def draw_sites(example: SiteExample, path: Path, *, title: str, outline: str) -> None:
    """Draw one case as the global model sees it, then as the model that each site trained does."""
    seen = {"global model": example.whole, **example.sites}
    tiles = [
        OverlayTile(
            example.case.image,
            example.case.roi,
            in_full_colour(map_),
            (whose, energy_line(map_)),
        )
        for whose, map_ in seen.items()
    ]
    note = f"asked: {example.case.question}  truth: {example.case.truth}; the first of the sample"
    drawn = draw_tiles(
        tiles, title=title, note=note, outline=outline, columns=COLUMNS, scale=EACH_MODEL
    )
    save_png(drawn, path)


def _one_per_patient(
    choices: Sequence[Choice], shard: Shard, count: int, *, taken: set[int]
) -> tuple[Choice, ...]:
    chosen: list[Choice] = []
    for choice in choices:
        patient = int(shard.patients[choice.index])
        if len(chosen) < count and patient not in taken:
            chosen.append(choice)
            taken.add(patient)
    return tuple(chosen)
