"""What coarser updates cost: how right the model is beside the bytes that its sites sent.

Two sites with generated chest X-rays, a small network, a few rounds of federated averaging in this
process: the sites' own trainer, the rounding that a site does before an update leaves, the bytes
that would travel. The same seeds for each precision; float32 is the run without any rounding. The
model is measured on pictures of a third hospital.

    python tests/benchmarks/precision.py --out out/bench-precision.json
"""

import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from client.desk.outgoing import at_precision
from client.training.trainer import Trainer
from common.config.reading import canonical_json, load_config
from common.config.run import PhantomSource, RunConfig, SiteConfig
from common.datasets.prepare import prepare_shard
from common.datasets.shard import Shard, open_shard
from common.datasets.sources import open_source
from common.learning.evaluate import evaluate, measure
from common.local_site import LocalSite
from common.machine.seed import derive_seed
from common.messages.kinds import TrainRequest, Update
from common.messages.precision import PRECISIONS, Precision
from common.messages.record_bytes import to_bytes
from common.messages.wire import decode_answer, encode
from common.model.arrays import array_names, read_arrays, write_arrays
from common.model.network import Network, build_network
from common.model.schedule import steps_per_round

CONFIGS = Path(__file__).parents[2] / "configs"
SITES = ("north", "harbour")
REFERENCE = "reference"
TASK = "chestx"
LARGEST_LOSS = 0.02  # of AUROC, that bfloat16 and int8 may lie below float32

Model = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Measured:
    """One run."""

    precision: Precision
    seed: int
    auroc: float  # mean over findings, of the last model
    update_bytes: int  # of one update, as it travels
    seconds: float


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--rounds", type=click.IntRange(min=1), default=6, show_default=True)
@click.option("--patients", type=click.IntRange(min=10), default=60, show_default=True)
@click.option("--seeds", type=click.IntRange(min=1), default=2, show_default=True)
def main(out: Path, rounds: int, patients: int, seeds: int) -> None:
    """Train in each precision and write what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        shards = _shards(_config(1, rounds, patients), Path(folder))
        runs = [
            _run(_config(seed, rounds, patients), precision, shards, Path(folder))
            for seed in range(1, seeds + 1)
            for precision in PRECISIONS
        ]
    aurocs = {p: _mean([run.auroc for run in runs if run.precision == p]) for p in PRECISIONS}
    report = {
        "rounds": rounds,
        "patients": patients,
        "auroc": aurocs,
        "within": {p: aurocs["float32"] - aurocs[p] <= LARGEST_LOSS for p in PRECISIONS},
        "limit": LARGEST_LOSS,
        "runs": [asdict(run) for run in runs],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")
    _show(runs, aurocs)


def _config(seed: int, rounds: int, patients: int) -> RunConfig:
    small = ["data.image_size_px=64", "model.image_size_px=64", "train.batch_size=8"]
    small += ["train.epochs=1", f"federation.rounds={rounds}", f"seed={seed}"]
    demo = load_config(CONFIGS / "experiments" / "demo.yaml", small).run
    site = next(site for site in demo.sites if site.task == TASK)
    if not isinstance(site.source, PhantomSource):
        raise TypeError("the demo's sites have generated pictures.")
    source = site.source.model_copy(update={"patients": patients})
    sites = tuple(SiteConfig(name=name, task=TASK, source=source) for name in SITES)
    return demo.model_copy(update={"sites": sites, "tasks": {TASK: demo.tasks[TASK]}})


def _shards(config: RunConfig, folder: Path) -> dict[str, Path]:
    for name in (*SITES, REFERENCE):
        source = open_source(
            config.sites[0].source,
            task=config.task(TASK),
            data_root=folder,
            config_root=CONFIGS,
            site=name,
            seed=derive_seed(config.seed, name),
        )
        prepare_shard(
            source,
            task=config.task(TASK),
            parts={"train": 0.2, "val": 0.8} if name == REFERENCE else {"train": 0.9, "val": 0.1},
            data=config.data,
            seed=config.seed,
            out=folder / name,
        )
    return {name: folder / name for name in (*SITES, REFERENCE)}


def _run(
    config: RunConfig, precision: Precision, shards: Mapping[str, Path], folder: Path
) -> Measured:
    federation = config.federation.model_copy(update={"update_precision": precision})
    config = config.model_copy(update={"federation": federation})
    threads = os.cpu_count() or 1
    trainers = {
        name: Trainer(
            LocalSite(
                name=name,
                task=TASK,
                shard=shards[name],
                state=folder / f"state-{precision}-{config.seed}",
                num_threads=threads,
            )
        )
        for name in SITES
    }
    network = build_network(config.model, config.task_table(), seed=config.seed)
    model: Model = {n: a.copy() for n, a in read_arrays(network, array_names(network)).items()}
    began, update_bytes = time.monotonic(), 0
    for server_round in range(1, config.federation.rounds + 1):
        updates = []
        for trainer in trainers.values():
            update, update_bytes = _sent(trainer, config, model, server_round)
            updates.append(update)
        _add_mean(model, updates)
    write_arrays(network, model)
    auroc = _auroc(network, open_shard(shards[REFERENCE]), config)
    return Measured(precision, config.seed, auroc, update_bytes, time.monotonic() - began)


def _sent(
    trainer: Trainer, config: RunConfig, model: Model, server_round: int
) -> tuple[Update, int]:
    """Return a site's update as it arrives, and its size."""
    steps = steps_per_round(
        trainer.describe().num_examples,
        batch_size=config.train.batch_size,
        epochs=config.train.epochs,
    )
    request = TrainRequest(
        run=f"precision-{config.seed}",
        server_round=server_round,
        global_step=(server_round - 1) * steps,
        total_steps=config.federation.rounds * steps,
        proximal_mu=0.0,
        evaluates=False,
        config_json=canonical_json(config),
        arrays=model,
    )
    update = trainer.train(request)
    if not isinstance(update, Update):
        raise TypeError(f"{update.site} did not train: {update.reason}")
    content = encode(at_precision(update, config))
    arrived = decode_answer(content, Update)
    if not isinstance(arrived, Update):
        raise TypeError("an update arrived as a refusal.")
    return arrived, len(to_bytes(content))


def _add_mean(model: Model, updates: list[Update]) -> None:
    """Move a model by the mean of updates, weighted by pictures."""
    weight = sum(update.num_examples for update in updates)
    for name in model:
        moved = sum(update.num_examples * update.arrays[name].astype(float) for update in updates)
        model[name] = (model[name] + moved / weight).astype(np.float32)


def _auroc(network: Network, shard: Shard, config: RunConfig) -> float:
    predicted = evaluate(
        network,
        shard,
        "val",
        task=config.task(TASK),
        loss=config.loss,
        batch_size=config.evaluation.batch_size,
    )
    values_only = config.evaluation.model_copy(update={"bootstrap_replicates": 0})
    report = measure(predicted, config=values_only, seed=config.seed)
    value = report.classification.average["auroc"].value
    return float("nan") if value is None else value


def _mean(values: list[float]) -> float:
    return float(np.mean(values))


def _show(runs: list[Measured], aurocs: Mapping[Precision, float]) -> None:
    table = Table("Updates in", "AUROC", "against float32", "MB an update", "seconds a run")
    for precision in PRECISIONS:
        own = [run for run in runs if run.precision == precision]
        table.add_row(
            precision,
            f"{aurocs[precision]:.3f}",
            f"{aurocs[precision] - aurocs['float32']:+.3f}",
            f"{own[0].update_bytes / 1e6:.2f}",
            f"{_mean([run.seconds for run in own]):.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
