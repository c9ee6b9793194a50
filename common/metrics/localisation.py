"""Whether a saliency map points at the lesion: hit, energy and overlap, each beside chance.

Chance is the same map put down at a random place: its expectation over all shifts of the picture,
wrapping around the borders. With n pixels, of which a are ROI,
    pointing hit   every pixel is the maximum equally often:  a / n  (a dilated by the tolerance)
    energy         every pixel carries each value equally often:  a / n
    IoU            mean over shifts s of I(s) / (2a - I(s)), I(s) the overlap of the shifted region.
The mean of I(s) is a^2 / n, hence IoU of a region of loose pixels is near (a/n) / (2 - a/n); it
is higher for a region in one piece, as I / (2a - I) is convex in I. The shifts respect that.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.errors import ConfigError, DataError
from common.metrics.bootstrap import (
    Float64Array,
    bootstrap,
    interval_or_reason,
    once_each,
    patients_lacking,
    ratio,
)
from common.metrics.estimate import Estimate, finite_or_none, joined
from common.metrics.geometry import (
    TIE,
    BoolArray,
    brightest,
    cell_coverage,
    dilated,
    shifted_overlaps,
    upsampled,
)

LOCALISATION_METRICS = ("pointing_hit", "energy_in_roi", "iou_matched_area")
ABOVE_CHANCE = "_above_chance"  # suffix of value minus chance, paired picture by picture


@dataclass(frozen=True)
class Localisation:
    """How well one map finds one ROI; every number in [0, 1]."""

    hit: float  # share of the map's (tied) maximal pixels inside the ROI
    hit_chance: float
    energy: float  # share of the positive evidence inside the ROI
    energy_chance: float
    iou: float  # of the ROI and the map's brightest region of the same area
    iou_chance: float
    has_positive_evidence: bool


@dataclass(frozen=True)
class LocalisedCase:
    """One picture and one class present in it; ``localisation`` is None where it has no ROI."""

    class_name: str
    patient: int
    localisation: Localisation | None


@dataclass(frozen=True)
class LocalisationReport:
    """Localisation of one task on one set.

    The metrics are ``LOCALISATION_METRICS`` and, for each, the same with ``ABOVE_CHANCE`` appended,
    which is better than chance when its ``low`` is above 0.
    """

    per_class: dict[str, dict[str, Estimate]]  # class -> metric -> estimate
    average: dict[str, Estimate]  # over all cases alike
    class_average: dict[str, Estimate]  # over classes alike; interval if each class can have one
    maps_without_positive_evidence: int  # counted as misses
    cases_without_roi: int  # not counted


def localise(
    saliency: NDArray[np.floating], roi: BoolArray, *, tolerance_px: int = 0
) -> Localisation | None:
    """Compare a saliency map with the ROI, ``None`` if the ROI is empty.

    Negative parts of the map, evidence against the class, are set to 0. What remains is laid over
    the picture in two ways. Energy keeps the map's cells as they are, each counting by the share of
    it that the ROI covers, because interpolation would carry evidence into neighbouring cells.
    Pointing and IoU need an order of pixels within cells and use bilinear interpolation, as usual
    for maps that are drawn over pictures.

    A map without positive evidence, or with values that are not finite, points nowhere: hit,
    energy and IoU are 0. A flat map is no better than chance: ties are shared evenly.

    Pointing game: Zhang et al. 2016, arXiv:1608.00507 (who tolerate 15 px). Energy: Wang et al.
    2020, arXiv:1910.01279. IoU: of the threshold at which the map's area equals the ROI's.

    Args:
        saliency: signed or non-negative map of the class, shape (h, w).
        roi: expert's mask, shape (H, W), any size.
        tolerance_px: distance from the ROI at which the maximum still counts as a hit.

    Raises:
        DataError: if either is not two-dimensional, or the map has no cell.
        ConfigError: for a negative tolerance.
    """
    if saliency.ndim != 2 or roi.ndim != 2 or saliency.size == 0:
        raise DataError(
            f"a saliency map (h, w) and a mask (H, W) are needed, got shapes {saliency.shape} and "
            f"{roi.shape}. Compare one picture and one class at a time."
        )
    if tolerance_px < 0:
        raise ConfigError(f"tolerance_px must be >= 0, got {tolerance_px}.")
    roi = roi.astype(np.bool_)  # a picture's mask may hold 0 and 255
    area_px = int(roi.sum())
    if area_px == 0:
        return None
    target = dilated(roi, tolerance_px)
    share = area_px / roi.size
    hit = energy = iou = 0.0
    iou_chance = share / (2 - share)  # no region whose shape could be shifted

    cells = np.clip(saliency.astype(np.float64), 0, None)
    has_positive_evidence = bool(np.isfinite(saliency).all() and cells.max() > 0)
    if has_positive_evidence:
        cells /= cells.max()  # sums of float32's largest or smallest values stay in range
        energy = float((cells * cell_coverage(roi, *cells.shape)).sum() / cells.sum())
        pixels = upsampled(cells, *roi.shape)
        is_maximum = pixels >= pixels.max() * (1 - TIE)
        hit = float(target[is_maximum].mean())
        region = brightest(pixels, area_px)
        iou = _iou(region[roi].sum(), area_px).item()
        iou_chance = float(_iou(shifted_overlaps(region, roi), area_px).mean())
    return Localisation(
        hit=hit,
        hit_chance=float(target.mean()),
        energy=min(energy, 1.0),
        energy_chance=share,
        iou=iou,
        iou_chance=iou_chance,
        has_positive_evidence=has_positive_evidence,
    )


def localisation_metrics(
    rows: Sequence[LocalisedCase],
    *,
    replicates: int,
    min_patients: int,
    rng: np.random.Generator,
) -> LocalisationReport:
    """Average localisation over cases, per class and together, with intervals over patients.

    Args:
        rows: one per picture and present class; those without ROI are counted and left out.
        replicates: of the bootstrap over patients; 0 for no intervals.
        min_patients: fewest patients with an ROI for an interval.
        rng: source of the bootstrap's draws.

    Raises:
        ConfigError: for negative replicates.
    """
    if replicates < 0:
        raise ConfigError(f"replicates must be >= 0, got {replicates}; use 0 for no intervals.")
    cases = _Cases.of(rows)
    values = cases.means(once_each(len(cases.patients)))[0]  # (C + 2, 6)
    lacks = cases.lacks(min_patients)
    drawn = np.empty((0, *values.shape))
    if replicates and not all(lacks):
        drawn = bootstrap(cases.means, cases.patients, replicates=replicates, rng=rng)
    *per_class, average, class_average = (
        cases.estimates(group, values[group], drawn[:, group], lack)
        for group, lack in enumerate(lacks)
    )
    return LocalisationReport(
        per_class=dict(zip(cases.classes, per_class, strict=True)),
        average=average,
        class_average=class_average,
        maps_without_positive_evidence=int(cases.missed.sum()),
        cases_without_roi=len(rows) - len(cases.patients),
    )


@dataclass(frozen=True, eq=False)
class _Cases:
    """The N cases with an ROI as arrays.

    The C classes, then all cases together, then the average of the classes, are groups 0 to C + 1.
    """

    classes: tuple[str, ...]
    members: Float64Array  # 1 where the case belongs to the group, (N, C + 1)
    scores: Float64Array  # LOCALISATION_METRICS, (N, 3)
    chance: Float64Array  # (N, 3)
    missed: BoolArray  # no positive evidence, (N,)
    patients: NDArray[np.int64]  # (N,)

    @classmethod
    def of(cls, rows: Sequence[LocalisedCase]) -> "_Cases":
        classes = tuple(dict.fromkeys(row.class_name for row in rows))
        found = [(row, row.localisation) for row in rows if row.localisation is not None]
        members = [[row.class_name == name for name in classes] + [True] for row, _ in found]
        scores = [(one.hit, one.energy, one.iou) for _, one in found]
        chance = [(one.hit_chance, one.energy_chance, one.iou_chance) for _, one in found]
        return cls(
            classes=classes,
            members=np.array(members, dtype=np.float64).reshape(-1, len(classes) + 1),
            scores=np.array(scores, dtype=np.float64).reshape(-1, 3),
            chance=np.array(chance, dtype=np.float64).reshape(-1, 3),
            missed=np.array([not one.has_positive_evidence for _, one in found], dtype=np.bool_),
            patients=np.array([row.patient for row, _ in found], dtype=np.int64),
        )

    def means(self, weights: Float64Array) -> Float64Array:
        """Return each group's mean scores, then scores minus chance, (R, N) -> (R, C + 2, 6)."""
        columns = np.concatenate([self.scores, self.scores - self.chance], axis=1)  # (N, 6)
        products = self.members[:, :, None] * columns[:, None, :]  # (N, C + 1, 6)
        sums = np.tensordot(weights, products, axes=1)  # (R, C + 1, 6)
        groups = ratio(sums, (weights @ self.members)[:, :, None])
        return np.concatenate([groups, self._class_mean(groups)], axis=1)

    def lacks(self, needed: int) -> list[str]:
        """Return per group why it can have no interval, "" if it can."""
        lacks = [
            patients_lacking("patients with an ROI", present=self._patients(g), needed=needed)
            for g in range(len(self.classes) + 1)
        ]
        thin = [f"{lacks[c]} ({self.classes[c]})" for c in self._present if lacks[c]]
        return [*lacks, thin[0] if thin else lacks[-1]]

    def estimates(
        self, group: int, values: Float64Array, drawn: Float64Array, lack: str
    ) -> dict[str, Estimate]:
        """Return a group's metrics from its values (6,) and replicates (R, 6)."""
        is_class_mean = group > len(self.classes)
        column = self.members[:, min(group, len(self.classes))]
        chances = ratio(self.members.T @ self.chance, self.members.sum(axis=0)[:, None])  # (C+1, 3)
        chance = self._class_mean(chances[None])[0, 0] if is_class_mean else chances[group]
        support, missed = int(column.sum()), int(self.missed[column == 1].sum())
        names = ", ".join(self.classes[c] for c in self._present)
        remark = joined(
            f"average of {len(self._present)} classes: {names}" if is_class_mean else "",
            f"{missed} of {support} maps without positive evidence" if missed else "",
        )
        estimates = {}
        above = tuple(metric + ABOVE_CHANCE for metric in LOCALISATION_METRICS)
        for m, metric in enumerate(LOCALISATION_METRICS + above):
            low, high, why_not = interval_or_reason(drawn[:, m], lack)
            note = joined(remark, why_not)
            estimates[metric] = Estimate(
                value=finite_or_none(values[m]),
                low=low,
                high=high,
                support=support,
                positives=support,
                positive_patients=self._patients(min(group, len(self.classes))),
                chance=0.0 if metric in above else finite_or_none(chance[m]),
                note=note if support else "not defined: no picture with an ROI",
            )
        return estimates

    @property
    def _present(self) -> list[int]:
        """Classes with at least one case."""
        return np.flatnonzero(self.members[:, :-1].any(axis=0)).tolist()

    def _patients(self, group: int) -> int:
        return len(np.unique(self.patients[self.members[:, group] == 1]))

    def _class_mean(self, groups: Float64Array) -> Float64Array:
        """Average the groups that are classes with cases, (R, C + 1, M) -> (R, 1, M)."""
        present = self._present
        if not present:
            return np.full((len(groups), 1, groups.shape[2]), np.nan)
        mean: Float64Array = groups[:, present].mean(axis=1, keepdims=True)
        return mean


def _iou(overlap: Float64Array, area_px: int) -> Float64Array:
    """Return the IoU of two regions of one area from their overlap: I / (2a - I)."""
    return overlap / (2 * area_px - overlap)
