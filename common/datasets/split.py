"""Shares patients out over parts: by patient, stratified by label, fixed by a seed."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from common.errors import DataError


def patient_units(
    patients: Sequence[str], groups: Iterable[Sequence[int]] = ()
) -> NDArray[np.int64]:
    """Return, per record, the number of the unit that must stay together.

    A unit is a patient, or all patients that duplicate pictures connect, directly or in a chain.

    Args:
        patients: Patient of each record, length N.
        groups: Records that show the same picture, as indices into ``patients``.
    """
    _, codes = np.unique(np.asarray(patients, dtype=object).astype(str), return_inverse=True)
    if not len(codes):
        return np.zeros(0, dtype=np.int64)
    number = int(codes.max()) + 1
    ends = [(codes[group[0]], codes[other]) for group in groups for other in group[1:]]
    left, right = np.array(ends, dtype=np.int64).reshape(-1, 2).T
    links = coo_array((np.ones(len(left)), (left, right)), shape=(number, number))
    _, unit_of_patient = connected_components(links, directed=False)
    return np.asarray(unit_of_patient[codes], dtype=np.int64)


def label_strata(targets: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return (N, K): which of K strata each record counts in.

    Several logits: one stratum per logit that is 1, and one for records without any. A single
    logit: one per distinct value. Unknown values (NaN) count nowhere.

    Args:
        targets: (N, T) as ``Task`` describes them.
    """
    if targets.shape[1] > 1:
        positive = targets == 1
        return np.column_stack([positive, ~positive.any(axis=1)])
    values = np.unique(targets[~np.isnan(targets)])
    return np.asarray(targets == values[None, :], dtype=np.bool_)


def split_patients(
    patients: Sequence[str],
    targets: NDArray[np.floating],
    *,
    shares: Mapping[str, float],
    seed: int,
    groups: Iterable[Sequence[int]] = (),
) -> NDArray[np.int8]:
    """Return, per record, the index of its part in the order of ``shares``.

    Iterative stratification (Sechidis, Tsoumakas, Vlahavas 2011, "On the stratification of
    multi-label data", algorithm 1) over units instead of records: the rarest label is shared out
    first, each unit to the part that still wants most of it. Parts have whole quotas of patients
    by largest remainder, the earlier part winning a tie, so that with very few patients the first
    part is filled first and later parts may stay empty.

    The result depends on the patients' names, their labels and the seed, not on the order of rows.

    Args:
        patients: Patient of each record, length N.
        targets: (N, T) as ``Task`` describes them, NaN where unknown.
        shares: Part to share of all patients; not negative, summing to 1.
        seed: Decides which patients go where.
        groups: Records that show the same picture; their patients stay together.

    Raises:
        DataError: The shares are negative or do not sum to 1.
    """
    wanted = np.array(list(shares.values()), dtype=np.float64)
    if not len(wanted) or (wanted < 0).any() or abs(wanted.sum() - 1) > 1e-6:
        raise DataError(f"shares must not be negative and must sum to 1, got {dict(shares)}.")
    if not len(patients):
        return np.zeros(0, dtype=np.int8)
    units = patient_units(patients, groups)
    has_label, weight = _per_unit(units, patients, label_strata(targets))
    order = _seeded_order(units, patients, seed)
    part_of_unit = _stratify(has_label[order], weight[order], wanted)
    part = np.empty(len(order), dtype=np.int8)
    part[order] = part_of_unit
    return part[units]


def _per_unit(
    units: NDArray[np.int64], patients: Sequence[str], strata: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return (U, K) patients per stratum and (U,) patients, of each unit."""
    _, first, codes = np.unique(
        np.asarray(patients, dtype=object).astype(str), return_index=True, return_inverse=True
    )
    of_patient = np.zeros((len(first), strata.shape[1]), dtype=np.bool_)
    np.logical_or.at(of_patient, codes, strata)
    unit_of_patient = units[first]
    number = int(units.max()) + 1
    has_label = np.zeros((number, strata.shape[1]))
    np.add.at(has_label, unit_of_patient, of_patient)
    return has_label, np.bincount(unit_of_patient, minlength=number)


def _seeded_order(
    units: NDArray[np.int64], patients: Sequence[str], seed: int
) -> NDArray[np.int64]:
    """Return the units by the hash of their first patient's name, whatever the row order."""
    first_name: dict[int, str] = {}
    for unit, patient in zip(units.tolist(), patients, strict=True):
        name = str(patient)
        first_name[unit] = min(first_name.get(unit, name), name)
    keys = {
        unit: hashlib.sha256(f"{seed}\x1f{name}".encode()).digest()
        for unit, name in first_name.items()
    }
    return np.array(sorted(keys, key=keys.__getitem__), dtype=np.int64)


def quotas(total: int, shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return whole numbers that sum to ``total``: largest remainders, the earlier winning a tie."""
    exact = total * shares
    # Sums of shares such as 0.7 + 0.2 + 0.1 miss whole numbers by rounding alone.
    whole = np.floor(exact + 1e-9).astype(np.int64)
    by_remainder = np.lexsort((np.arange(len(shares)), -np.round(exact - whole, 9)))
    whole[by_remainder[: total - int(whole.sum())]] += 1
    return whole


def _stratify(
    has_label: NDArray[np.float64], weight: NDArray[np.int64], shares: NDArray[np.float64]
) -> NDArray[np.int8]:
    """Return the part of each unit; units come in the order in which they are to be served."""
    room = quotas(int(weight.sum()), shares).astype(np.float64)
    open_parts = shares > 0
    demand = shares[:, None] * has_label.sum(axis=0)[None, :]  # (P, K)
    part = np.full(len(weight), -1, dtype=np.int8)
    while (part < 0).any():
        waiting = part < 0
        left = has_label[waiting].sum(axis=0)
        # A unit without any known label waits until the labelled ones are served.
        rarest = int(np.argmin(np.where(left > 0, left, np.inf))) if (left > 0).any() else None
        due = waiting if rarest is None else waiting & (has_label[:, rarest] > 0)
        # Large units first: they are the ones that may not fit later.
        queue = np.flatnonzero(due)
        for unit in queue[np.argsort(-weight[queue], kind="stable")]:
            fits = open_parts & (room >= weight[unit])
            if not fits.any():
                fits = open_parts & (room == room[open_parts].max())
            wish = room if rarest is None else demand[:, rarest]
            best = np.lexsort((-room, -np.round(wish, 9), ~fits))[0]
            part[unit] = best
            room[best] -= weight[unit]
            demand[best] -= has_label[unit]
    return part
