"""What clinicians' reviews say together: agreement, answers, confidence, and what was measured."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from common.errors import DataError
from common.explanation.files import read_explanation
from common.explanation.schema import Explanation, Finding, Method
from common.metrics.estimate import Estimate
from common.pages.review import ANSWERS, Answer, Review
from server.report.review_agreement import (
    estimated,
    rank_correlation,
    weighted_kappa,
    weighted_mean,
)

Question = Literal["region", "rationale"]
QUESTIONS: tuple[Question, ...] = ("region", "rationale")
LEVEL: Mapping[Answer, float] = {"no": 0.0, "partly": 1.0, "yes": 2.0}  # "cannot tell" is none
REPLICATES = 1000
SEED = 1968

Item = tuple[str, str, str, str, str]  # see Review.item


@dataclass(frozen=True)
class Measured:
    """What an explanation measured of one map."""

    energy_in_roi: float | None
    agreement: float | None  # of the model's own map: the mean over the other methods


@dataclass(frozen=True)
class TaskReviews:
    """All that the reviews of one task say; no reader and no remark is in it."""

    counts: Mapping[str, int]
    # <question>/kappa, <question>/<answer> (share of reviews), confidence/change (after less
    # before, in points of 100), confidence/moved (its size), alignment/<measure> (Spearman's rank
    # correlation with the readers' mean answer on the region)
    estimates: Mapping[str, Estimate]

    def as_json(self) -> dict[str, JsonValue]:
        """Return counts and estimates by name, ready for JSON."""
        named: dict[str, JsonValue] = {
            name: {key: value for key, value in one.as_dict().items() if key in _SHOWN}
            for name, one in self.estimates.items()
        }
        return {"counts": dict(self.counts), "estimates": named}

    def metrics(self, task: str) -> dict[str, float]:
        """Return every defined number by its tracked name, ``reviews/<task>/region/kappa.low``."""
        found = {name: float(count) for name, count in self.counts.items()}
        for name, one in self.estimates.items():
            parts = {"": one.value, ".low": one.low, ".high": one.high}
            found |= {f"{name}{end}": value for end, value in parts.items() if value is not None}
        return {f"reviews/{task}/{name}": value for name, value in found.items()}


_SHOWN = ("value", "low", "high", "support", "chance", "note")


def summarise(
    reviews: Sequence[Review], measured: Mapping[Item, Measured], *, replicates: int = REPLICATES
) -> dict[str, TaskReviews]:
    """Return what the reviews of each task say.

    Args:
        reviews: one per reader and item (``common.pages.review.read_reviews``).
        measured: what explanations measured of the items; may lack some, or all.
        replicates: draws of the bootstrap over pictures.
    """
    tasks = sorted({review.task for review in reviews})
    return {
        task: _of_task([r for r in reviews if r.task == task], measured, replicates)
        for task in tasks
    }


def _of_task(
    reviews: Sequence[Review], measured: Mapping[Item, Measured], replicates: int
) -> TaskReviews:
    items = sorted({review.item for review in reviews})
    readers = sorted({review.reader for review in reviews})
    estimate = partial(estimated, replicates=replicates, seed=SEED)
    pictures = [review.picture_sha256 for review in reviews]
    of_item = [item[0] for item in items]
    found: dict[str, Estimate] = {}
    for question in QUESTIONS:
        levels = _levels(reviews, items, readers, question)
        kappa = partial(weighted_kappa, levels)
        found[f"{question}/kappa"] = estimate(kappa, of_item, chance=0.0)
        for answer in ANSWERS:
            given = np.array([float(getattr(one, question) == answer) for one in reviews])
            share = partial(weighted_mean, given)
            found[f"{question}/{answer.replace(' ', '_')}"] = estimate(share, pictures, chance=None)
    change = np.array([float(r.confidence_after - r.confidence_before) for r in reviews])
    for name, values in {"change": change, "moved": np.abs(change)}.items():
        mean = partial(weighted_mean, values)
        found[f"confidence/{name}"] = estimate(mean, pictures, chance=None)
    regions = _levels(reviews, items, readers, "region")
    for measure in ("energy_in_roi", "agreement"):
        found[f"alignment/{measure}"] = _alignment(regions, items, measured, measure, replicates)
    each = [sum(review.item == item for review in reviews) for item in items]
    counts = {
        "reviews": len(reviews),
        "readers": len(readers),
        "pictures": len(set(pictures)),
        "items": len(items),
        "items_of_several_readers": sum(count > 1 for count in each),
        "items_with_explanation": sum(item in measured for item in items),
    }
    return TaskReviews(counts=counts, estimates=found)


def _levels(
    reviews: Sequence[Review], items: Sequence[Item], readers: Sequence[str], question: Question
) -> NDArray[np.float64]:
    """Return each reader's level for each item, NaN where there is none, (readers, items)."""
    levels = np.full((len(readers), len(items)), np.nan)
    row = {reader: number for number, reader in enumerate(readers)}
    column = {item: number for number, item in enumerate(items)}
    for review in reviews:
        answer: Answer = getattr(review, question)
        levels[row[review.reader], column[review.item]] = LEVEL.get(answer, np.nan)
    return levels


def _alignment(
    regions: NDArray[np.float64],
    items: Sequence[Item],
    measured: Mapping[Item, Measured],
    measure: Literal["energy_in_roi", "agreement"],
    replicates: int,
) -> Estimate:
    """Return Spearman's correlation of the readers' mean answer with a measure, over items."""
    pairs = []
    for number, item in enumerate(items):
        answers = regions[:, number][np.isfinite(regions[:, number])]
        value = getattr(measured[item], measure) if item in measured else None
        if answers.size and value is not None:
            pairs.append((item[0], float(answers.mean()), float(value)))
    answer, value = (np.array([pair[place] for pair in pairs], dtype=float) for place in (1, 2))
    return estimated(
        partial(rank_correlation, answer, value),
        [pair[0] for pair in pairs],
        chance=0.0,
        replicates=replicates,
        seed=SEED,
    )


def read_measured(
    folders: Iterable[Path],
) -> tuple[dict[Item, Measured], tuple[tuple[Path, str], ...]]:
    """Return what the explanations in folders measured, and the files that are none, with why.

    An explanation is ``NAME.json`` beside ``NAME.html``.
    """
    found: dict[Item, Measured] = {}
    failures = []
    for path in sorted({path for folder in folders for path in folder.rglob("*.json")}):
        if not path.with_suffix(".html").exists():
            continue
        try:
            explanation = read_explanation(path)
        except DataError as error:
            failures.append((path, str(error)))
            continue
        found |= _measured_in(explanation)
    return found, tuple(failures)


def _measured_in(explanation: Explanation) -> dict[Item, Measured]:
    about = (explanation.picture.sha256, explanation.model.weights_sha256, explanation.task)
    return {
        (*about, finding.name, method.name): Measured(
            energy_in_roi=method.energy_in_roi, agreement=_agreement(finding, method)
        )
        for finding in explanation.findings
        for method in finding.methods
    }


def _agreement(finding: Finding, method: Method) -> float | None:
    own = finding.methods[0]
    if method is not own:
        return method.agreement
    others = [one.agreement for one in finding.methods[1:] if one.agreement is not None]
    return sum(others) / len(others) if others else None
