"""What a site keeps of a run between rounds, and for how long."""

import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.training.state import KEPT_RUNS, LocalState, Making, count_layers
from common.errors import DataError, RunError


@pytest.fixture
def state(tmp_path: Path) -> LocalState:
    return LocalState(tmp_path, site="north", run="run-1")


def arrays(value: float) -> dict[str, np.ndarray]:
    return {"heads.chestx.w": np.full((2,), value, np.float32)}


def value_before(state: LocalState, server_round: int) -> float | None:
    kept = state.load(before=server_round)
    return float(kept["heads.chestx.w"][0]) if kept else None


def test_before_the_first_round_there_is_nothing(state: LocalState) -> None:
    assert state.load(before=1) == {}


def test_a_round_starts_from_the_last_one_before_it_that_this_site_trained(
    state: LocalState,
) -> None:
    state.save(arrays(1.0), server_round=1)
    state.save(arrays(3.0), server_round=3)

    assert [value_before(state, n) for n in (1, 2, 3, 4, 9)] == [None, 1.0, 1.0, 3.0, 3.0]


def test_what_waits_for_the_ledger_counts_when_the_ledger_has_it(
    state: LocalState, tmp_path: Path
) -> None:
    state.save(arrays(1.0), server_round=1)
    state.hold(arrays(2.0), server_round=2)
    assert value_before(state, 3) == 1.0

    count_layers(tmp_path, site="north", run="run-1", server_round=1)  # nothing waits there
    assert value_before(state, 3) == 1.0
    count_layers(tmp_path, site="north", run="run-1", server_round=2)

    assert value_before(state, 3) == 2.0
    kept = sorted(path.name for path in (tmp_path / "north" / "run-1" / "plain").iterdir())
    assert kept == ["local-layers-00001.safetensors", "local-layers-00002.safetensors"]


def test_a_run_that_keeps_no_layers_has_none_to_count(tmp_path: Path) -> None:
    count_layers(tmp_path, site="north", run="run-1", server_round=1)
    assert not list(tmp_path.iterdir())


def test_two_rounds_are_kept(state: LocalState, tmp_path: Path) -> None:
    for number in (1, 2, 3, 4):
        state.save(arrays(number), server_round=number)

    kept = sorted(path.name for path in (tmp_path / "north" / "run-1" / "plain").iterdir())
    assert kept == ["local-layers-00003.safetensors", "local-layers-00004.safetensors"]


def test_a_round_that_is_done_again_takes_away_what_came_after_it(state: LocalState) -> None:
    for number in (1, 2, 3):
        state.save(arrays(number), server_round=number)

    state.save(arrays(2.5), server_round=2)

    assert value_before(state, 3) == 2.5
    assert value_before(state, 9) == 2.5


def test_a_damaged_file_is_an_error_that_names_it(state: LocalState, tmp_path: Path) -> None:
    state.save(arrays(1.0), server_round=1)
    (tmp_path / "north" / "run-1" / "plain" / "local-layers-00001.safetensors").write_bytes(
        b"damaged"
    )

    with pytest.raises(DataError, match=r"local-layers-00001\.safetensors: cannot be read"):
        state.load(before=2)


def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot name a folder"):
        LocalState(tmp_path, site="north", run="../other")


def used(folder: Path, run: str, *, at: int) -> LocalState:
    """A run whose layers were last used at a second."""
    state = LocalState(folder, site="north", run=run)
    state.save(arrays(1.0), server_round=1)
    os.utime(folder / "north" / run, (at, at))
    return state


def test_the_runs_used_last_are_kept_and_older_ones_forgotten(tmp_path: Path) -> None:
    runs = [used(tmp_path, f"run-{n}", at=1000 + n) for n in range(KEPT_RUNS)]
    other = LocalState(tmp_path, site="south", run="run-0")
    other.save(arrays(1.0), server_round=1)
    runs[0].load(before=2)  # the oldest is used again

    LocalState(tmp_path, site="north", run="new").save(arrays(2.0), server_round=1)

    kept = {path.name for path in (tmp_path / "north").iterdir()}
    assert kept == {"new", "run-0", *(f"run-{n}" for n in range(2, KEPT_RUNS))}
    assert value_before(other, 2) == 1.0


def test_a_run_in_use_is_kept_however_young_the_others_are(tmp_path: Path) -> None:
    for n in range(KEPT_RUNS + 3):
        used(tmp_path, f"run-{n}", at=2**33 + n)  # a clock that was wrong

    state = LocalState(tmp_path, site="north", run="mine")
    state.save(arrays(2.0), server_round=1)

    assert value_before(state, 2) == 2.0
    assert len(list((tmp_path / "north").iterdir())) == KEPT_RUNS


MAKING = Making(
    task="chestx",
    labels=("Mass", "Nodule"),
    local_layers=("heads.", "trunk.norm"),
    architecture_digest="0" * 64,
    noised_for=None,
)


@pytest.mark.parametrize(
    "changes",
    [
        {"noised_for": "image"},
        {"noised_for": "patient"},
        {"local_layers": ("heads.",)},
        {"architecture_digest": "1" * 64},
        {"task": "retina"},
        {"labels": ("Nodule", "Mass")},
    ],
    ids=", ".join,
)
def test_layers_made_in_another_way_are_not_found_and_not_lost(
    tmp_path: Path, changes: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    one = LocalState(tmp_path, site="north", run="run-1", kind=MAKING.kind)
    one.save(arrays(1.0), server_round=1)
    changed = replace(MAKING, **changes)  # type: ignore[arg-type]
    other = LocalState(tmp_path, site="north", run="run-1", kind=changed.kind)

    with caplog.at_level(logging.INFO):
        assert other.load(before=9) == {}
    assert [record.message for record in caplog.records] == [
        "local layers of this run were made under another configuration and stay unused"
    ]

    other.save(arrays(2.0), server_round=1)
    assert (value_before(one, 9), value_before(other, 9)) == (1.0, 2.0)


def test_the_order_in_which_local_layers_are_named_says_nothing() -> None:
    assert replace(MAKING, local_layers=("trunk.norm", "heads.")).kind == MAKING.kind


def test_noise_for_images_and_for_patients_are_told_apart() -> None:
    kinds = {replace(MAKING, noised_for=unit).kind for unit in (None, "image", "patient")}
    assert len(kinds) == 3


def test_layers_of_a_version_that_kept_no_kind_are_not_used(tmp_path: Path) -> None:
    state = LocalState(tmp_path, site="north", run="run-1", kind=MAKING.kind)
    state.save(arrays(1.0), server_round=1)
    kept = tmp_path / "north" / "run-1" / MAKING.kind / "local-layers-00001.safetensors"
    kept.rename(tmp_path / "north" / "run-1" / kept.name)

    assert state.load(before=9) == {}
