"""Does what speaks for a class lie where a sign's map lies? Of one model's forward pass.

That both lie in one place is no proof that the sign is the reason: heads of one network read the
same tokens, and what is found beside the sign lies there too. That they do not, speaks against it.
"""

import numpy as np
from numpy.typing import NDArray

from common.errors import DataError
from common.metrics.bootstrap import (
    Float64Array,
    IntArray,
    bootstrap,
    interval_or_reason,
    once_each,
    patients_lacking,
    ratio,
)
from common.metrics.estimate import Estimate, finite_or_none, joined
from common.metrics.geometry import BoolArray, brightest
from common.metrics.localisation import ABOVE_CHANCE

CORE = 0.8  # of what speaks for a sign: where it is seen, without what is spread thinly
ON_SIGN = "evidence_on_sign"


def sign_places(sign_maps: NDArray[np.floating]) -> Float64Array:
    """Return where a sign's map lies: the fewest cells that hold ``CORE`` of what speaks for it.

    Whether the sign is said to be there does not matter: the probability of a rare sign stays below
    one half even where its map is right. A map in which nothing speaks for the sign, or that is
    not finite, lies nowhere. Cells that are tied at the rim belong to the place in part.

    Args:
        sign_maps: Signed maps of one sign, (N, h, w).

    Returns membership of each cell, (N, h, w), in [0, 1].
    """
    places = np.zeros(sign_maps.shape)
    for row, cells in enumerate(sign_maps):
        if not np.isfinite(cells).all():
            continue
        speaks = np.clip(cells, 0, None).astype(np.float64)
        held = np.cumsum(np.sort(speaks, axis=None)[::-1])  # (h * w,)
        if held[-1] > 0:
            places[row] = brightest(speaks, int(np.searchsorted(held, CORE * held[-1])) + 1)
    return places


def evidence_on_sign(
    maps: NDArray[np.floating],
    places: Float64Array,
    patients: IntArray,
    *,
    replicates: int,
    min_patients: int,
    rng: np.random.Generator,
) -> dict[str, Estimate]:
    """Return the share of all that speaks for a class that lies where a sign's map lies.

    With e(n, t) = max(m(n, t), 0) of the class's maps and p(n, t) of :func:`sign_places`
        share  = Σ_n Σ_t e(n, t) · p(n, t)  /  Σ_n Σ_t e(n, t)
        chance = Σ_n E(n) · a(n)  /  Σ_n E(n),  E(n) = Σ_t e(n, t),  a(n) = mean_t p(n, t):
    the share if each picture kept its evidence and had it laid down anywhere. So a sign whose map
    is wide just in the pictures with much evidence has a high chance too, and is not above it.
    Pictures are added up before dividing: one in which much speaks for the class counts more.

    Args:
        maps: Signed maps of the class, (N, h, w), of the pictures that show it.
        places: Where the sign's maps of them lie, (N, h, w), in [0, 1].
        patients: Patient code of each picture, (N,).
        replicates: Of the bootstrap over patients; 0 for no interval.
        min_patients: Fewest patients for an interval.
        rng: Source of the bootstrap's draws.

    Returns ``evidence_on_sign`` in [0, 1] and ``evidence_on_sign_above_chance``, the share less
    the chance in the same replicates, in [-1, 1]: the sign's places are named for sure where its
    ``low`` is above 0. ``support`` and ``positives`` count the pictures in which something speaks
    for the class, ``positive_patients`` their patients; the note counts the signs without a place.
    There is no value where the sign has a place in none of them.

    Raises:
        DataError: Shapes do not agree.
    """
    if maps.shape != places.shape or maps.ndim != 3 or len(maps) != len(patients):
        raise DataError(
            f"maps and places (N, h, w) of the same N pictures are needed, got {maps.shape} and "
            f"{places.shape} for {len(patients)} patients. Give those of one class and one sign."
        )
    is_finite: BoolArray = np.isfinite(maps).all(axis=(1, 2))
    evidence = np.where(is_finite[:, None, None], np.clip(maps, 0, None), 0).astype(np.float64)
    used = evidence.sum(axis=(1, 2)) > 0
    total = evidence[used].sum(axis=(1, 2))
    inside = (evidence[used] * places[used]).sum(axis=(1, 2))
    by_chance = total * places[used].mean(axis=(1, 2))

    def shares(weights: Float64Array) -> Float64Array:  # (R, N) -> (R, 2)
        whole = weights @ total
        share, chance = ratio(weights @ inside, whole), ratio(weights @ by_chance, whole)
        return np.stack([share, share - chance], axis=1)

    who = patients[used]
    present = len(np.unique(who))
    lack = patients_lacking("patients", present=present, needed=min_patients)
    drawn = np.empty((0, 2))
    if replicates and not lack:
        drawn = bootstrap(shares, who, replicates=replicates, rng=rng)
    nowhere = int((places[used].sum(axis=(1, 2)) == 0).sum())
    missing = len(maps) - len(who)
    if len(who) and nowhere == len(who):
        # Nothing to lie on: a share of 0 beside a chance of 0 would read like a finding.
        lack, drawn = "not defined: nothing speaks for the sign in any of them", np.empty((0, 2))
    is_defined = nowhere < len(who)
    values = shares(once_each(len(who)))[0] if is_defined else np.full(2, np.nan)
    chances = (finite_or_none(float(values[0] - values[1])), 0.0)
    found = {}
    for column, name in enumerate((ON_SIGN, ON_SIGN + ABOVE_CHANCE)):
        low, high, why_not = interval_or_reason(drawn[:, column], lack)
        found[name] = Estimate(
            value=finite_or_none(float(values[column])),
            low=low,
            high=high,
            support=len(who),
            positives=len(who),
            positive_patients=present,
            chance=chances[column],
            note=joined(
                f"nothing speaks for the sign in {nowhere} of {len(who)} pictures"
                * (is_defined and nowhere > 0),
                f"nothing speaks for the class in {missing} of {len(maps)}" * (missing > 0),
                why_not,
            ),
        )
    return found
