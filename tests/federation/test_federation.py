"""Whole federations through Flower's simulation engine: real processes, real messages."""

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from common.config.run import RunConfig
from common.errors import ConfigError, DataError
from server.exchange.participation import Outcome, Reply, Status

Run = Callable[..., object]
MISBEHAVING = Path(__file__).parent / "misbehaving"


def test_two_runs_of_one_seed_are_complete_and_equal_bit_for_bit(run: Run, run_here: Run) -> None:
    """In Flower's engine, where sites share processes as these come free, and in one process."""
    first, second = run("first"), run_here("second")

    assert first.result.verdict.status is Status.COMPLETE, first.result.verdict
    assert set(first.kept.cards) == {"north", "harbour", "valley", "lakeside"}
    assert [report.server_round for report in first.kept.reports] == [0, 1, 2]
    models = [load_file(ran.result.files.last) for ran in (first, second)]
    assert all(models[0][name].tobytes() == models[1][name].tobytes() for name in models[0])
    untrained = first.kept.reports[0].model
    assert {
        name.split(".")[1]
        for name, array in models[0].items()
        if name.startswith("heads.") and (array != untrained[name]).any()
    } == {"chestx", "retina", "pathoscan"}
    last = {site.site: site for site in first.kept.reports[2].sites}
    assert set(last["north"].metrics) >= {"total", "classification", "attention", "saliency"}
    # Every model was measured at the sites, the untrained and the last one too.
    assert sorted(first.kept.measured) == [0, 1, 2]
    assert all("loss_total" in by_site["valley"] for by_site in first.kept.measured.values())


def test_sites_that_crash_send_nan_or_lack_a_class_are_named_and_the_run_goes_on(
    run_by: Run, shards: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(MISBEHAVING)  # Flower hands the path on to its processes
    negative = tmp_path / "lakeside"
    shutil.copytree(shards["lakeside"], negative)
    np.save(negative / "targets.npy", np.zeros_like(np.load(negative / "targets.npy")))

    ran = run_by(client_app="misbehaving_client:app", lakeside=negative)

    outcomes = {site.site: (site.outcome, site.reason) for site in ran.kept.reports[1].sites}
    assert outcomes == {
        "north": (Outcome.FAILED, "MemoryError; the site's log says more"),
        "harbour": (Outcome.REJECTED, "array 'trunk.project_deep.bias' holds non-finite values"),
        "valley": (Outcome.ANSWERED, ""),
        "lakeside": (Outcome.ANSWERED, ""),
    }
    assert ran.result.verdict.status is Status.PARTIAL
    assert ran.result.verdict.reasons[0] == (
        "site north failed in rounds 1, 2: MemoryError; the site's log says more."
    )
    assert all(np.isfinite(a).all() for a in load_file(ran.result.files.last).values())


@pytest.mark.slow
def test_ctrl_c_ends_a_run_in_order(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Impatient:
        """Presses Ctrl-C once training has begun."""

        def waiting_for(self, sites: Sequence[str]) -> None: ...
        def site_answered(self, site: str) -> None: ...
        def evaluating(self, server_round: int, *, sites: Sequence[str]) -> None: ...
        def round_finished(self, server_round: int, *, replies: Sequence[Reply]) -> None: ...

        def round_started(self, server_round: int, *, rounds: int, sites: Sequence[str]) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    short = Path(tempfile.mkdtemp(prefix="t"))  # Ray's sockets need a short path
    monkeypatch.setattr(tempfile, "tempdir", str(short))
    before = dict(os.environ)

    with pytest.raises(KeyboardInterrupt):
        run(progress=Impatient())

    assert list(short.glob("fovea-*")) == []  # torch may have made a folder of its own here
    assert dict(os.environ) == before


def test_a_site_without_a_shard_is_named_before_anything_starts(run: Run, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Prepare site valley"):
        run(valley=tmp_path / "nowhere")


def test_an_unknown_strategy_is_named_before_anything_starts(run: Run, config: RunConfig) -> None:
    federation = config.federation.model_copy(update={"strategy": "fedavgg"})

    with pytest.raises(ConfigError, match="Did you mean 'fedavg'"):
        run(settings={"federation": federation})


def test_more_cores_than_there_are_is_an_error_with_a_remedy(run: Run, config: RunConfig) -> None:
    simulation = config.simulation.model_copy(update={"cpus_per_site": 10_000.0})

    with pytest.raises(ConfigError, match=r"this machine has \d+\. Lower it"):
        run(settings={"simulation": simulation})
