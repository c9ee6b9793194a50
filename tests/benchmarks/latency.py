"""What an explanation costs beside the prediction alone, and how long one picture takes.

``make bench-latency``. One prepared picture of 256 x 256 px at a time, two threads, untrained
networks of the shipped sizes, which are as fast as trained ones.

*Alone* is the network without its concept heads, and calibrated probabilities. *Explained* is all
of :func:`explain_picture` without further methods: prediction set, novelty, the model's own map,
concepts, and the whole rationale. An untrained network leaves nearly every finding open, so that
the rationale has more to say than after training. The two alternate in random order and each pair
gives one ratio; the check fails when the median ratio is above the limit.

The second table has the network by itself, with its maps, in eager torch and in ONNX Runtime, after
both were seen to give the same numbers. The reference system reports 22 ms for one picture, on
another machine.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import cast

import click
import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from common.config.model import ModelConfig
from common.explaining.explain_picture import explain_picture
from common.explaining.picture_file import PreparedPicture
from common.explanation.anatomy import WHOLE
from common.metrics.temperature import calibrated
from common.model.network import Network, TaskHead, build_network
from common.package.loading import LoadedModel, network_input
from common.package.onnx_export import TOLERANCE, difference, export_onnx
from common.package.onnx_model import open_onnx
from common.tasks import TASKS
from small_model import TEMPERATURE, model_around

LIMIT = 1.15
REFERENCE_MS = 22.0  # as the reference system reports it
SIZES = ("tiny", "small", "base")
SIDE_PX = 256
THREADS = 2
FEWEST = 12  # pairs
BOOTSTRAP = 2000

Step = Callable[[], object]


@dataclass(frozen=True)
class Cost:
    """One size of model."""

    size: str
    task: str
    pairs: int
    alone_ms: float  # median
    explained_ms: float
    ratio: float  # median of the pairs
    ratio_low: float  # 95 % bootstrap interval
    ratio_high: float
    eager_p50_ms: float  # the network by itself
    eager_p95_ms: float
    onnx_p50_ms: float
    onnx_p95_ms: float
    onnx_difference: float  # largest of all outputs, relative to each output's largest value
    onnx_mb: float
    export_s: float

    @property
    def is_met(self) -> bool:
        """Say whether the explanation is cheap enough and ONNX Runtime gives the same numbers."""
        return self.ratio <= LIMIT and self.onnx_difference <= TOLERANCE


def model_of(size: str, task: str) -> LoadedModel:
    """Return an untrained model of a shipped size for pictures of SIDE_PX."""
    text = Path("configs/models", f"{size}.yaml").read_text(encoding="utf-8")
    values = yaml.safe_load(text)["model"]
    config = ModelConfig.model_validate(values)
    network = build_network(config, {task: TASKS[task]}, seed=0).eval()
    return model_around(network, size_px=SIDE_PX)


def picture_of(task: str) -> PreparedPicture:
    """Return a picture of noise as if it had been prepared."""
    shape = (SIDE_PX, SIDE_PX, TASKS[task].channels)
    return PreparedPicture(
        name="noise.png",
        sha256="0" * 64,
        width_px=SIDE_PX,
        height_px=SIDE_PX,
        image=np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8),
        skipped=(),
        extent=WHOLE,
        region=None,
        eye=None,
    )


def without_concepts(network: Network, task: str) -> Network:
    """Return a copy that predicts and does nothing else."""
    copy = deepcopy(network)
    cast(TaskHead, copy.heads[task]).concepts = None
    return copy


def interleaved(steps: Mapping[str, Step], *, seconds: float) -> dict[str, NDArray[np.float64]]:
    """Return the wall times of steps in s, each in its turn and every turn in another order."""
    draw = np.random.default_rng(0)
    for step in steps.values():  # the first calls allocate
        step()
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, times.values())) < FEWEST:
        for name in draw.permutation(list(steps)):
            start = time.perf_counter()
            steps[str(name)]()
            times[str(name)].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in times.items()}


def median_interval(ratios: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the median."""
    draw = np.random.default_rng(0)
    medians = np.median(draw.choice(ratios, (BOOTSTRAP, len(ratios))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(low), float(high)


def cost_of(size: str, task: str, *, seconds: float) -> Cost:
    """Measure one size, half of the time for each table."""
    model, picture = model_of(size, task), picture_of(task)
    plain = without_concepts(model.network, task)
    batch = picture.image[None]

    def alone() -> object:
        with torch.inference_mode():
            output = plain(network_input(batch), task=task)
        return calibrated(output.class_logits.numpy(), TEMPERATURE)

    def explained() -> object:
        return explain_picture(model, picture, task=task, now=datetime.now(UTC))

    def eager() -> object:
        with torch.inference_mode():
            return model.network(network_input(batch), task=task)

    pairs = interleaved({"alone": alone, "explained": explained}, seconds=seconds / 2)
    ratios = pairs["explained"] / pairs["alone"]
    low, high = median_interval(ratios)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        start = time.perf_counter()
        export_onnx(model, task=task, path=path, batch=1)
        export_s = time.perf_counter() - start
        size_mb = path.stat().st_size / 2**20
        exported = open_onnx(path, threads=THREADS)
    with torch.inference_mode():
        ours = model.network(network_input(batch), task=task)
    apart = max(
        difference(getattr(ours, name), values) for name, values in exported.run(batch).items()
    )
    single = interleaved({"eager": eager, "onnx": lambda: exported.run(batch)}, seconds=seconds / 2)
    ms = {name: 1000 * np.quantile(values, [0.5, 0.95]) for name, values in single.items()}
    return Cost(
        size=size,
        task=task,
        pairs=len(ratios),
        alone_ms=1000 * median(pairs["alone"]),
        explained_ms=1000 * median(pairs["explained"]),
        ratio=float(np.median(ratios)),
        ratio_low=low,
        ratio_high=high,
        eager_p50_ms=float(ms["eager"][0]),
        eager_p95_ms=float(ms["eager"][1]),
        onnx_p50_ms=float(ms["onnx"][0]),
        onnx_p95_ms=float(ms["onnx"][1]),
        onnx_difference=apart,
        onnx_mb=size_mb,
        export_s=export_s,
    )


def tables_of(costs: list[Cost]) -> tuple[Table, Table]:
    """Return what an explanation costs, and how long one picture takes."""
    first = Table(title=f"one picture, explained beside the prediction alone (limit {LIMIT:.2f})")
    for heading in ("size", "task", "alone ms", "explained ms", "ratio [95 %]", "pairs", ""):
        first.add_column(heading, justify="right")
    second = Table(
        title=f"one picture through the network, {THREADS} threads, ms "
        f"(the reference system reports {REFERENCE_MS:.0f} ms)"
    )
    for heading in ("size", "eager p50", "p95", "ONNX p50", "p95", "difference", "file", "export"):
        second.add_column(heading, justify="right")
    for cost in costs:
        first.add_row(
            cost.size,
            cost.task,
            f"{cost.alone_ms:.1f}",
            f"{cost.explained_ms:.1f}",
            f"{cost.ratio:.3f} [{cost.ratio_low:.3f}, {cost.ratio_high:.3f}]",
            str(cost.pairs),
            "[green]met[/]" if cost.is_met else "[red]missed[/]",
        )
        second.add_row(
            cost.size,
            f"{cost.eager_p50_ms:.1f}",
            f"{cost.eager_p95_ms:.1f}",
            f"{cost.onnx_p50_ms:.1f}",
            f"{cost.onnx_p95_ms:.1f}",
            f"{cost.onnx_difference:.0e}",
            f"{cost.onnx_mb:.1f} MB",
            f"{cost.export_s:.0f} s",
        )
    return first, second


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/bench-latency.json"))
@click.option("--size", "sizes", multiple=True, type=click.Choice(SIZES), default=SIZES)
@click.option("--task", type=click.Choice(list(TASKS)), default="chestx", show_default=True)
@click.option("--seconds", default=60.0, show_default=True, help="Time for each size's pairs.")
def main(*, out: Path, sizes: tuple[str, ...], task: str, seconds: float) -> None:
    """Measure, show, write; exit 1 when a limit is missed."""
    torch.set_num_threads(THREADS)
    console = Console(width=140 if not sys.stdout.isatty() else None)
    costs = []
    for size in sizes:
        with console.status(f"{size}: single pictures"):
            costs.append(cost_of(size, task, seconds=seconds))
        # Each size as soon as it is there: the largest takes minutes to export.
        console.print(f"{size}: ratio {costs[-1].ratio:.3f}, export {costs[-1].export_s:.0f} s")
    for table in tables_of(costs):
        console.print(table)
    is_met = all(cost.is_met for cost in costs)
    out.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "limit": LIMIT,
        "reference_ms": REFERENCE_MS,
        "side_px": SIDE_PX,
        "threads": THREADS,
        "is_met": is_met,
        "costs": [asdict(cost) for cost in costs],
    }
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    sys.exit(0 if is_met else 1)


if __name__ == "__main__":
    main()
