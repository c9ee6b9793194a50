"""What privacy costs: a training step of noised, clipped gradients beside a plain one.

``python tests/benchmarks/private.py --out out/bench-private.json``. Same network, same pictures,
same loss; every picture is a unit of its own, the dearest case. Steps of all methods alternate in
random order with plain ones, each pair gives one ratio; the check fails when the 95 % bootstrap
interval of the median ratio of the method that ``auto`` chooses lies wholly above the limit. Peak
memory comes from separate processes, because it cannot be taken back within one.
"""

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from step import (
    TASK,
    batch_size,
    device,
    loss_config,
    median_interval,
    model_config,
    peak_resident_mb,
    random_batch,
    timed_s,
)

from common.config.reading import load_config
from common.config.run import RunConfig
from common.learning.loss import total_loss
from common.model.network import build_network
from common.model.optimiser import optimiser_of
from common.model.parameters import parameters_of
from common.private.check import require_exact_gradients
from common.private.gradients import METHODS, clipped_sum
from common.private.secure_random import SecureRandom
from common.private.step import release_mean
from common.private.unit_batch import rows_of

LIMIT = 2.0
PLAIN = "plain"
STEPS = (PLAIN, *METHODS)
MIN_ROUNDS = 8


@dataclass(frozen=True)
class Cost:
    """One method with one model size."""

    size: str
    device: str
    method: str
    is_auto: bool  # what `privacy.per_sample_gradients: auto` chooses here
    batch_size: int
    image_size_px: int
    pairs: int
    plain_ms: float  # median
    private_ms: float
    ratio: float  # median of the pairs
    ratio_low: float  # 95 % bootstrap interval
    ratio_high: float
    plain_peak_mb: float
    private_peak_mb: float

    @property
    def is_met(self) -> bool:
        """Say whether the ratio may be at most the limit."""
        return not self.is_auto or self.ratio_low <= LIMIT


def run_config(size: str) -> RunConfig:
    """Return the shipped run with pictures of the size's side."""
    config = load_config(Path("configs/default.yaml"), []).run
    data = config.data.model_copy(update={"image_size_px": model_config(size).image_size_px})
    return config.model_copy(update={"data": data, "model": model_config(size)})


def step_of(size: str) -> Callable[[str], None]:
    """Return a training step that takes ``plain`` or a method's name."""
    config, loss = run_config(size), loss_config("full")
    network = build_network(config.model, {TASK.name: TASK}, seed=0).train().to(device())
    batch = random_batch(network, batch_size(size), config.data.image_size_px)
    trained = parameters_of(network, TASK)
    optimiser = optimiser_of(trained, config.train)
    units = tuple(np.arange(len(batch))[:, None])
    random = SecureRandom()

    def plain() -> None:
        output = network(batch.image, task=TASK.name)
        optimiser.zero_grad()
        total_loss(output, batch, task=TASK, config=loss).total.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), config.train.clip_norm)

    def private(name: str) -> None:
        total = clipped_sum(
            network,
            units,
            load=lambda pictures: rows_of(batch, torch.from_numpy(pictures).to(device())),
            task=TASK,
            loss=loss,
            method=name,
            clip_norm=config.privacy.clip_norm,
            batch_size=len(batch),
        )
        release_mean(total, privacy=config.privacy, random=random)
        for parameter, gradient in zip(trained.values(), total.values(), strict=True):
            parameter.grad = gradient

    def step(name: str) -> None:
        plain() if name == PLAIN else private(name)
        optimiser.step()
        if device().type == "cuda":
            torch.cuda.synchronize()

    return step


def auto_of(size: str) -> str:
    """Return the method that a run would use here."""
    config = run_config(size)
    network = build_network(config.model, {TASK.name: TASK}, seed=0).to(device())
    return require_exact_gradients(network, task=TASK, config=config)


def peak_mb(size: str, name: str) -> float:
    """Return the peak memory of a few steps; run it in a fresh process."""
    step = step_of(size)
    for _ in range(2):
        step(name)
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return peak_resident_mb()


def peak_in_child_mb(size: str, name: str) -> float:
    """Return the peak memory, measured in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(peak_mb, size, name).result()


def costs_of(size: str, seconds: float) -> list[Cost]:
    """Measure one size for about the given time."""
    step = step_of(size)
    draw = np.random.default_rng(0)
    for name in STEPS:  # the first steps allocate
        step(name)
    times: dict[str, list[float]] = {name: [] for name in STEPS}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[PLAIN]) < MIN_ROUNDS:
        for name in draw.permutation(STEPS):
            times[str(name)].append(timed_s(step, str(name)))
    auto = auto_of(size)
    cost = partial(cost_of, size, times, auto=auto, plain_peak_mb=peak_in_child_mb(size, PLAIN))
    return [cost(method=method) for method in METHODS]


def cost_of(
    size: str, times: dict[str, list[float]], *, method: str, auto: str, plain_peak_mb: float
) -> Cost:
    """Return one method's figures."""
    ratios = np.array(times[method]) / np.array(times[PLAIN])
    low, high = median_interval(ratios)
    return Cost(
        size=size,
        device=torch.cuda.get_device_name() if device().type == "cuda" else "cpu",
        method=method,
        is_auto=method == auto,
        batch_size=batch_size(size),
        image_size_px=model_config(size).image_size_px,
        pairs=len(ratios),
        plain_ms=1000 * median(times[PLAIN]),
        private_ms=1000 * median(times[method]),
        ratio=float(np.median(ratios)),
        ratio_low=low,
        ratio_high=high,
        plain_peak_mb=plain_peak_mb,
        private_peak_mb=peak_in_child_mb(size, method),
    )


def table_of(costs: list[Cost]) -> Table:
    """Return one row per size and method."""
    table = Table(title=f"private step beside a plain one (limit for auto {LIMIT:.1f})")
    for heading in ("size", "batch", "side", "method", "plain ms", "private ms"):
        table.add_column(heading, justify="right")
    for heading in ("ratio [95 %]", "pairs", "plain peak", "private peak", ""):
        table.add_column(heading, justify="right")
    for cost in costs:
        verdict = "[green]met[/]" if cost.is_met else "[red]missed[/]"
        table.add_row(
            cost.size,
            str(cost.batch_size),
            f"{cost.image_size_px} px",
            cost.method,
            f"{cost.plain_ms:.0f}",
            f"{cost.private_ms:.0f}",
            f"{cost.ratio:.2f} [{cost.ratio_low:.2f}, {cost.ratio_high:.2f}]",
            str(cost.pairs),
            f"{cost.plain_peak_mb:.0f} MB",
            f"{cost.private_peak_mb:.0f} MB",
            f"auto: {verdict}" if cost.is_auto else "",
        )
    return table


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/bench-private.json"))
@click.option(
    "--size",
    "sizes",
    multiple=True,
    type=click.Choice(["tiny", "small", "base"]),
    default=("tiny", "small"),
    show_default=True,
)
@click.option("--seconds", default=60.0, show_default=True, help="Time for each size's steps.")
def main(*, out: Path, sizes: tuple[str, ...], seconds: float) -> None:
    """Measure, show, write; exit 1 when an interval lies wholly above the limit."""
    console = Console(width=140 if not sys.stdout.isatty() else None)
    costs = [cost for size in sizes for cost in costs_of(size, seconds)]
    console.print(table_of(costs))
    is_met = all(cost.is_met for cost in costs)
    out.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "limit": LIMIT,
        "is_met": is_met,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "methods": [asdict(cost) for cost in costs],
    }
    out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    console.print(f"figures in {out}")
    sys.exit(0 if is_met else 1)


if __name__ == "__main__":
    main()
