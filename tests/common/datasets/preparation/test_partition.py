"""A pool is shared out by patient: nobody, and no picture, is at two places."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from common.config.run import DuplicateConfig
from common.datasets.partition import partition, scan_duplicates
from common.datasets.record import Case, Exclusion, Source
from common.datasets.source_traits import identity_of
from common.datasets.views import JoinedSource, SubsetSource
from common.errors import DataError


@pytest.fixture
def pool(held_source: Callable[..., Source], make_case: Callable[..., Case]) -> Source:
    cases = [
        make_case(row, patient=f"p{row // 2}", targets=(float(row % 3 == 0),)) for row in range(60)
    ]
    # The last picture is the first one under another name.
    cases[-1] = replace(cases[-1], image=cases[0].image)
    return held_source(cases, exclusions=(Exclusion("no label", "row 99", "label is empty"),))


SHARES = {"north": 0.3, "south": 0.3, "reference": 0.2}


def shared(
    pool: Source,
    duplicate_config: DuplicateConfig,
    *,
    shares: dict[str, float] | None = None,
    seed: int = 1,
) -> dict[str, SubsetSource]:
    duplicates = scan_duplicates(pool, config=duplicate_config)
    return partition(pool, duplicates=duplicates, shares=shares or SHARES, seed=seed)


def test_no_patient_is_at_two_places(pool: Source, duplicate_config: DuplicateConfig) -> None:
    sources = shared(pool, duplicate_config)
    patients = [{s.patient(i) for i in range(len(s))} for s in sources.values()]
    assert not patients[0] & patients[1] | patients[0] & patients[2] | patients[1] & patients[2]


def test_patients_who_share_a_picture_are_at_one_place(
    pool: Source, duplicate_config: DuplicateConfig
) -> None:
    sources = shared(pool, duplicate_config, shares={"north": 0.5, "south": 0.5})
    homes = [
        {name for name, s in sources.items() if patient in [s.patient(i) for i in range(len(s))]}
        for patient in ("p0", "p29")
    ]
    assert homes[0] == homes[1]


def test_shares_are_met(pool: Source, duplicate_config: DuplicateConfig) -> None:
    sources = shared(pool, duplicate_config)
    counts = {name: len({s.patient(i) for i in range(len(s))}) for name, s in sources.items()}
    assert counts == {"north": 9, "south": 9, "reference": 6}


def test_the_same_seed_shares_alike(pool: Source, duplicate_config: DuplicateConfig) -> None:
    first, second = (shared(pool, duplicate_config) for _ in range(2))
    assert {n: s.indices for n, s in first.items()} == {n: s.indices for n, s in second.items()}


def test_a_share_delivers_the_pools_cases(pool: Source, duplicate_config: DuplicateConfig) -> None:
    north = shared(pool, duplicate_config)["north"]
    assert (north.load(3).image == pool.load(north.indices[3]).image).all()


def test_rows_that_the_pool_rules_out_are_marked_as_the_whole_pools(
    pool: Source, duplicate_config: DuplicateConfig
) -> None:
    north = shared(pool, duplicate_config)["north"]
    assert [exclusion.reason for exclusion in north.exclusions] == ["no label (whole pool)"]


def test_a_picture_that_cannot_be_read_does_not_stop_the_scan(
    pool: Source, duplicate_config: DuplicateConfig
) -> None:
    report = scan_duplicates(replace(pool, broken=frozenset({1})), config=duplicate_config)
    assert report.groups == ((0, 59),)


def test_shares_above_one_are_refused(pool: Source, duplicate_config: DuplicateConfig) -> None:
    with pytest.raises(DataError, match=r"at most 1, got 1\.200"):
        shared(pool, duplicate_config, shares={"north": 0.6, "south": 0.6})


def test_a_site_without_patients_is_refused(
    held_source: Callable[..., Source],
    make_case: Callable[..., Case],
    duplicate_config: DuplicateConfig,
) -> None:
    tiny = held_source([make_case(0)])
    with pytest.raises(DataError, match="south gets none"):
        shared(tiny, duplicate_config, shares={"north": 0.5, "south": 0.5})


def test_joined_sources_follow_one_another(
    held_source: Callable[..., Source], make_case: Callable[..., Case]
) -> None:
    one, two = held_source([make_case(0)]), held_source([make_case(1), make_case(2)])
    joined = JoinedSource((one, two))
    assert [joined.patient(row) for row in range(len(joined))] == ["p0", "p1", "p2"]


def test_a_view_has_an_identity_only_if_its_source_has(
    pool: Source, duplicate_config: DuplicateConfig
) -> None:
    named = replace(pool, name="a pool")
    assert identity_of(shared(named, duplicate_config)["north"]) is not None
    assert identity_of(shared(pool, duplicate_config)["north"]) is None
    assert identity_of(JoinedSource((named, pool))) is None


def test_progress_counts_every_picture(pool: Source, duplicate_config: DuplicateConfig) -> None:
    seen = []
    scan_duplicates(pool, config=duplicate_config, progress=lambda done, total: seen.append(done))
    assert np.array_equal(seen, np.arange(1, 61))
