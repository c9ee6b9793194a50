"""What the full loss costs: a training step beside one with plain cross-entropy.

``python tests/benchmarks/step.py --out out/bench.json``. Same network, same batch, same forward
pass; only the loss differs. Steps alternate in random order, each pair gives one ratio; the check
fails when the 95 % bootstrap interval of the median ratio lies wholly above the limit. Peak memory
comes from separate processes, because it cannot be taken back within one.
"""

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import click
import numpy as np
import torch
import yaml
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from common.config.loss import LossConfig
from common.config.model import ModelConfig
from common.datasets.sample import Batch
from common.learning.loss import total_loss
from common.model.network import Network, build_network
from common.tasks import TASKS

LIMIT = 1.05
TASK = TASKS["chestx"]
# What each loss changes in the shipped one.
LOSSES: dict[str, dict[str, float]] = {
    "plain": {"lambda_att": 0.0, "lambda_sal": 0.0, "lambda_con": 0.0},
    "full": {},
}
BATCH = {"tiny": 40, "small": 8, "base": 4}
CUDA_BATCH = {"tiny": 256, "small": 64, "base": 32}
BOOTSTRAP = 2000


@dataclass(frozen=True)
class Cost:
    """One model size."""

    size: str
    device: str
    batch_size: int
    image_size_px: int
    pairs: int
    plain_ms: float  # median
    full_ms: float
    ratio: float  # median of the pairs
    ratio_low: float  # 95 % bootstrap interval
    ratio_high: float
    plain_peak_mb: float
    full_peak_mb: float
    images_per_s: float  # full loss

    @property
    def is_met(self) -> bool:
        """Say whether the ratio may be at most the limit."""
        return self.ratio_low <= LIMIT


def model_config(size: str) -> ModelConfig:
    """Read a shipped size."""
    text = Path("configs/models", f"{size}.yaml").read_text(encoding="utf-8")
    return ModelConfig.model_validate(yaml.safe_load(text)["model"])


def loss_config(name: str) -> LossConfig:
    """Return the shipped loss or, of it, plain cross-entropy."""
    text = Path("configs/default.yaml").read_text(encoding="utf-8")
    return LossConfig.model_validate(yaml.safe_load(text)["loss"] | LOSSES[name])


def device() -> torch.device:
    """Return the accelerator where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def batch_size(size: str) -> int:
    """Return how many pictures a step takes."""
    return (CUDA_BATCH if device().type == "cuda" else BATCH)[size]


def random_batch(network: Network, count: int, side_px: int) -> Batch:
    """Return noise with targets, and a ROI on a quarter of the positives."""
    draw = torch.Generator().manual_seed(0)
    shape = (count, TASK.num_logits)
    grid = network.grid(side_px)
    target = (torch.rand(shape, generator=draw) < 0.5).float()
    coverage = (torch.rand(*shape, *grid, generator=draw) - 0.8).clamp(min=0) * 5
    batch = Batch(
        image=torch.randn(count, 3, side_px, side_px, generator=draw),
        target=target,
        roi_coverage=coverage,
        has_roi=torch.rand(shape, generator=draw) < 0.25,
        concept_target=(torch.rand(count, len(TASK.concepts), generator=draw) < 0.5).float(),
        concept_coverage=torch.rand(count, len(TASK.concepts), *grid, generator=draw),
    )
    return Batch(**{name: value.to(device()) for name, value in vars(batch).items()})


def step_of(size: str) -> Callable[[str], None]:
    """Return a training step that takes the loss's name."""
    config = model_config(size)
    network = build_network(config, {TASK.name: TASK}, seed=0).train().to(device())
    batch = random_batch(network, batch_size(size), config.image_size_px)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4, weight_decay=1e-5)
    configs = {name: loss_config(name) for name in LOSSES}

    def step(name: str) -> None:
        output = network(batch.image, task=TASK.name)
        parts = total_loss(output, batch, task=TASK, config=configs[name])
        optimiser.zero_grad()
        parts.total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        if device().type == "cuda":
            torch.cuda.synchronize()

    return step


def timed_s(step: Callable[[str], None], name: str) -> float:
    """Return the wall time of one step."""
    start = time.perf_counter()
    step(name)
    return time.perf_counter() - start


def peak_mb(size: str, name: str) -> float:
    """Return the peak memory of a few steps; run it in a fresh process."""
    step = step_of(size)
    for _ in range(3):
        step(name)
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return peak_resident_mb()


def peak_resident_mb() -> float:
    """Return this process's own peak memory.

    Not ru_maxrss: Linux hands a parent's peak on to the process that it starts.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10  # KiB


def peak_in_child_mb(size: str, name: str) -> float:
    """Return the peak memory, measured in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(peak_mb, size, name).result()


def median_interval(ratios: np.ndarray) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the median."""
    draw = np.random.default_rng(0)
    medians = np.median(draw.choice(ratios, (BOOTSTRAP, len(ratios))), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(low), float(high)


def cost_of(size: str, seconds: float, tick: Callable[[], None]) -> Cost:
    """Measure one size for about the given time."""
    step = step_of(size)
    draw = np.random.default_rng(0)
    for name in LOSSES:  # the first steps allocate
        step(name)
        step(name)
    times: dict[str, list[float]] = {name: [] for name in LOSSES}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["plain"]) < 12:
        for name in draw.permutation(list(LOSSES)):
            times[str(name)].append(timed_s(step, str(name)))
        tick()
    ratios = np.array(times["full"]) / np.array(times["plain"])
    low, high = median_interval(ratios)
    full_s = median(times["full"])
    return Cost(
        size=size,
        device=torch.cuda.get_device_name() if device().type == "cuda" else "cpu",
        batch_size=batch_size(size),
        image_size_px=model_config(size).image_size_px,
        pairs=len(ratios),
        plain_ms=1000 * median(times["plain"]),
        full_ms=1000 * full_s,
        ratio=float(np.median(ratios)),
        ratio_low=low,
        ratio_high=high,
        plain_peak_mb=peak_in_child_mb(size, "plain"),
        full_peak_mb=peak_in_child_mb(size, "full"),
        images_per_s=batch_size(size) / full_s,
    )


def table_of(costs: list[Cost]) -> Table:
    """Return one row per size."""
    table = Table(title=f"training step, full loss beside plain cross-entropy (limit {LIMIT:.2f})")
    for heading in (
        "size",
        "batch",
        "side",
        "plain ms",
        "full ms",
        "ratio [95 %]",
        "pairs",
        "plain peak",
        "full peak",
        "images/s",
        "",
    ):
        table.add_column(heading, justify="right")
    for cost in costs:
        table.add_row(
            cost.size,
            str(cost.batch_size),
            f"{cost.image_size_px} px",
            f"{cost.plain_ms:.0f}",
            f"{cost.full_ms:.0f}",
            f"{cost.ratio:.3f} [{cost.ratio_low:.3f}, {cost.ratio_high:.3f}]",
            str(cost.pairs),
            f"{cost.plain_peak_mb:.0f} MB",
            f"{cost.full_peak_mb:.0f} MB",
            f"{cost.images_per_s:.1f}",
            "[green]met[/]" if cost.is_met else "[red]missed[/]",
        )
    return table


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/bench.json"))
@click.option(
    "--size",
    "sizes",
    multiple=True,
    type=click.Choice(list(BATCH)),
    default=("small", "base"),
    show_default=True,
)
@click.option("--seconds", default=60.0, show_default=True, help="Time for each size's pairs.")
def main(*, out: Path, sizes: tuple[str, ...], seconds: float) -> None:
    """Measure, show, write; exit 1 when an interval lies wholly above the limit."""
    console = Console(width=140 if not sys.stdout.isatty() else None)
    costs = []
    with Progress(console=console) as progress:
        for size in sizes:
            bar = progress.add_task(f"{size}: pairs of steps", total=None)
            costs.append(cost_of(size, seconds, lambda bar=bar: progress.advance(bar)))
    console.print(table_of(costs))
    is_met = all(cost.is_met for cost in costs)
    out.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "limit": LIMIT,
        "is_met": is_met,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "sizes": [asdict(cost) | {"is_met": cost.is_met} for cost in costs],
    }
    out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    console.print(f"figures in {out}")
    sys.exit(0 if is_met else 1)


if __name__ == "__main__":
    main()
