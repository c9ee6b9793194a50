"""What the prepared shard saves: pictures per second from it, and from raw files each time.

``python tests/benchmarks/loading.py --out out/bench-loading.json``. Both ways end in the same
batches, with the same augmentation; only where the pixels come from differs. Turns of the two
alternate in random order, and each pair gives one ratio. Then one epoch of training is timed with
the shard's loader: the share of a step that waits for data.
"""

import csv
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import click
import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from common.config.loss import LossConfig
from common.config.model import ModelConfig
from common.config.reading import load_config
from common.config.run import AugmentConfig, ManifestSource, PhantomSource
from common.datasets.loader import batches, make_batch
from common.datasets.phantom_source import open_phantom
from common.datasets.prepare import prepare_shard
from common.datasets.preprocess import preprocess
from common.datasets.record import Source
from common.datasets.shard import Shard
from common.datasets.shared_pictures import read_signatures
from common.datasets.sources import open_source
from common.datasets.transforms import Augmentation
from common.learning.loss import total_loss
from common.model.network import build_network
from common.tasks import TASKS, Task

LIMIT = 0.1  # share of a training step that may be spent waiting for data
TASK = TASKS["chestx"]
BATCH = {"tiny": 32, "small": 8}
PARTS = {"train": 1.0, "val": 0.0, "test": 0.0}
RAW_SIDE_PX = 1024
BOOTSTRAP = 2000
CONFIGS = Path("configs")


@dataclass(frozen=True)
class Loading:
    """Pictures per second by the two ways."""

    pictures: int  # of the source
    pairs: int
    per_turn: int  # pictures each way loads in one turn
    shard_per_s: float  # median
    shard_spread: tuple[float, float]  # quartiles
    raw_per_s: float
    raw_spread: tuple[float, float]
    ratio: float  # median of the pairs
    ratio_low: float  # 95 % bootstrap interval
    ratio_high: float
    prepare_s: float  # once: what preparing all of them took


@dataclass(frozen=True)
class Waiting:
    """One epoch of training from the shard."""

    size: str
    image_size_px: int
    batch_size: int
    steps: int
    step_ms: float  # median of a whole step
    waiting_ms: float  # median of the part in which it waits for its batch
    waiting_share: float  # of the whole epoch

    @property
    def is_met(self) -> bool:
        """Say whether training hardly ever waits."""
        return self.waiting_share <= LIMIT


@dataclass(frozen=True)
class Setting:
    """What is loaded and how."""

    source: Source
    task: Task
    shard: Shard
    records: NDArray[np.int64]  # of each picture of the shard, its number in the source
    size_px: int
    batch_size: int
    grid: tuple[int, int]
    augment: AugmentConfig
    prepare_s: float


def model_config(size: str) -> ModelConfig:
    """Read a shipped size."""
    text = (CONFIGS / "models" / f"{size}.yaml").read_text(encoding="utf-8")
    return ModelConfig.model_validate(yaml.safe_load(text)["model"])


def draw_raw_files(folder: Path, count: int, tick: Callable[[], None]) -> Source:
    """Write phantom pictures of a hospital's size as PNG, with a table, and open them."""
    phantoms = open_phantom(
        PhantomSource(
            kind="phantom",
            patients=count,
            pictures_per_patient=1,
            scanner_strength=0.5,
            lesion_contrast=1.0,
            roi_fraction=0.0,
            marker_agreement=None,
            prevalence=None,
        ),
        task=TASK,
        site="bench",
        seed=0,
    ).drawn_at(512)
    rows = []
    for index in range(count):
        drawn = phantoms.draw(index)
        picture = Image.fromarray(drawn.image[..., 0])
        grown = np.asarray(picture.resize((RAW_SIDE_PX, RAW_SIDE_PX), Image.Resampling.BICUBIC))
        # Without a detector's grain the files would compress as no radiograph does.
        grain = np.random.default_rng(index).normal(0, 2, grown.shape)
        Image.fromarray(np.clip(grown + grain, 0, 255).astype(np.uint8)).save(
            folder / f"{index}.png"
        )
        found = [
            name for name, value in zip(TASK.labels, drawn.targets, strict=True) if value == 1.0
        ]
        rows.append([f"{index}.png", "|".join(found) or "No Finding", f"p{index}"])
        tick()
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["image", "labels", "patient"], *rows])
    return open_table(folder)


def open_table(folder: Path) -> Source:
    """Open a folder with ``table.csv``: columns image, labels (NIH words) and patient."""
    columns = dict.fromkeys(("site", "roi_mask", "roi_boxes", "roi_kind", "official_split")) | {
        "image": "image",
        "labels": "labels",
        "patient": "patient",
    }
    config = ManifestSource.model_validate(
        {
            "kind": "manifest",
            "table": "table.csv",
            "images": None,
            "columns": columns,
            "where": {},
            "label_separator": "|",
            "mapping": "labels/nih.yaml",
        }
    )
    return open_source(
        config, task=TASK, data_root=folder, config_root=CONFIGS, site="bench", seed=0
    )


def setting_for(size: str, source: Source, folder: Path) -> Setting:
    """Prepare the source at a model's size."""
    run = load_config(CONFIGS / "default.yaml").run
    model = model_config(size)
    began = time.perf_counter()
    shard = prepare_shard(
        source,
        task=TASK,
        parts=PARTS,
        data=run.data.model_copy(update={"image_size_px": model.image_size_px}),
        seed=0,
        out=folder / f"shard-{size}",
    )
    prepare_s = time.perf_counter() - began
    grid = build_network(model, {TASK.name: TASK}, seed=0).grid(model.image_size_px)
    return Setting(
        source=source,
        task=TASK,
        shard=shard,
        records=read_signatures(folder / f"shard-{size}")[1],
        size_px=model.image_size_px,
        batch_size=BATCH[size],
        grid=grid,
        augment=run.data.augment[TASK.name],
        prepare_s=prepare_s,
    )


def from_shard(setting: Setting, rows: NDArray[np.int64]) -> None:
    """Load pictures as training does."""
    for start in range(0, len(rows), setting.batch_size):
        make_batch(
            setting.shard,
            rows[start : start + setting.batch_size],
            task=setting.task,
            grid=setting.grid,
            augmentation=Augmentation(setting.augment, torch.Generator().manual_seed(start)),
        )


def from_raw_files(setting: Setting, rows: NDArray[np.int64]) -> None:
    """Load the same pictures from their files, preparing each on the way."""
    config = load_config(CONFIGS / "default.yaml").run.data.preprocess[setting.task.name]
    for start in range(0, len(rows), setting.batch_size):
        chosen = rows[start : start + setting.batch_size]
        pictures = []
        for record in setting.records[chosen].tolist():
            case = setting.source.load(record)
            prepared = preprocess(case.image, [], size_px=setting.size_px, config=config)
            pictures.append(prepared.image)
        held = replace(
            setting.shard,
            images=np.stack(pictures),
            targets=setting.shard.targets[chosen],
            region_image=np.zeros(0, dtype=np.int32),
        )
        make_batch(
            held,
            np.arange(len(chosen)),
            task=setting.task,
            grid=setting.grid,
            augmentation=Augmentation(setting.augment, torch.Generator().manual_seed(start)),
        )


def measure_loading(setting: Setting, seconds: float, tick: Callable[[], None]) -> Loading:
    """Take turns for about the given time."""
    draw = np.random.default_rng(0)
    ways: dict[str, Callable[[Setting, NDArray[np.int64]], None]] = {
        "shard": from_shard,
        "raw": from_raw_files,
    }
    per_turn = min(4 * setting.batch_size, len(setting.shard))
    rates: dict[str, list[float]] = {name: [] for name in ways}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(rates["raw"]) < 8:
        rows = draw.permutation(len(setting.shard))[:per_turn]
        for name in draw.permutation(list(ways)).tolist():
            began = time.perf_counter()
            ways[name](setting, rows)
            rates[name].append(per_turn / (time.perf_counter() - began))
        tick()
    ratios = np.array(rates["shard"]) / np.array(rates["raw"])
    means = [float(np.median(draw.choice(ratios, len(ratios)))) for _ in range(BOOTSTRAP)]
    low, high = np.quantile(means, [0.025, 0.975])
    return Loading(
        pictures=len(setting.shard),
        pairs=len(ratios),
        per_turn=per_turn,
        shard_per_s=median(rates["shard"]),
        shard_spread=quartiles(rates["shard"]),
        raw_per_s=median(rates["raw"]),
        raw_spread=quartiles(rates["raw"]),
        ratio=float(np.median(ratios)),
        ratio_low=float(low),
        ratio_high=float(high),
        prepare_s=setting.prepare_s,
    )


def quartiles(values: list[float]) -> tuple[float, float]:
    """Return the first and third quartile."""
    low, high = np.quantile(values, [0.25, 0.75])
    return float(low), float(high)


def measure_waiting(size: str, setting: Setting, tick: Callable[[], None]) -> Waiting:
    """Train one epoch and look how long each step waits for its batch."""
    model = model_config(size)
    network = build_network(model, {TASK.name: TASK}, seed=0).train()
    text = (CONFIGS / "default.yaml").read_text(encoding="utf-8")
    loss = LossConfig.model_validate(yaml.safe_load(text)["loss"])
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-4)
    waiting, whole = [], []
    epoch = batches(
        setting.shard,
        "train",
        task=TASK,
        batch_size=setting.batch_size,
        grid=setting.grid,
        augment=setting.augment,
        seed=0,
    )
    while True:
        began = time.perf_counter()
        batch = next(epoch, None)
        if batch is None:
            break
        loaded = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        total_loss(
            network(batch.image, task=TASK.name), batch, task=TASK, config=loss
        ).total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        whole.append(time.perf_counter() - began)
        waiting.append(loaded - began)
        tick()
    # The first step allocates.
    return Waiting(
        size=size,
        image_size_px=setting.size_px,
        batch_size=setting.batch_size,
        steps=len(whole),
        step_ms=1000 * median(whole),
        waiting_ms=1000 * median(waiting),
        waiting_share=sum(waiting[1:]) / sum(whole[1:]),
    )


def tables_of(loadings: dict[str, Loading], waitings: list[Waiting]) -> list[Table]:
    """Return what was measured, to be shown."""
    speed = Table(title="pictures per second, median [quartiles]")
    for heading in (
        "size",
        "pictures",
        "from the shard",
        "from raw files",
        "ratio [95 %]",
        "pairs",
    ):
        speed.add_column(heading, justify="right")
    for size, found in loadings.items():
        speed.add_row(
            size,
            str(found.pictures),
            f"{found.shard_per_s:.0f} [{found.shard_spread[0]:.0f}, {found.shard_spread[1]:.0f}]",
            f"{found.raw_per_s:.1f} [{found.raw_spread[0]:.1f}, {found.raw_spread[1]:.1f}]",
            f"{found.ratio:.1f} [{found.ratio_low:.1f}, {found.ratio_high:.1f}]",
            str(found.pairs),
        )
    share = Table(title=f"one epoch of training from the shard (limit {LIMIT:.0%} of it waiting)")
    for heading in ("size", "side", "batch", "steps", "step ms", "waiting ms", "share", ""):
        share.add_column(heading, justify="right")
    for waited in waitings:
        share.add_row(
            waited.size,
            f"{waited.image_size_px} px",
            str(waited.batch_size),
            str(waited.steps),
            f"{waited.step_ms:.0f}",
            f"{waited.waiting_ms:.1f}",
            f"{waited.waiting_share:.1%}",
            "[green]met[/]" if waited.is_met else "[red]missed[/]",
        )
    return [speed, share]


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/bench-loading.json"))
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Real pictures instead: a folder with table.csv (image, labels, patient; NIH words).",
)
@click.option("--pictures", default=96, show_default=True, help="Phantom pictures to draw.")
@click.option("--seconds", default=30.0, show_default=True, help="Time for each size's pairs.")
def main(*, out: Path, data: Path | None, pictures: int, seconds: float) -> None:
    """Measure, show, write; exit 1 when training waits for data for more than its limit."""
    console = Console(width=140 if not sys.stdout.isatty() else None)
    loadings, waitings = {}, []
    with tempfile.TemporaryDirectory() as name, Progress(console=console) as progress:
        folder = Path(name)
        if data is None:
            bar = progress.add_task("drawing raw files", total=pictures)
            source = draw_raw_files(folder, pictures, lambda: progress.advance(bar))
        else:
            source = open_table(data)
        for size in BATCH:
            setting = setting_for(size, source, folder)
            bar = progress.add_task(f"{size}: pairs of turns", total=None)
            loadings[size] = measure_loading(
                setting, seconds, lambda bar=bar: progress.advance(bar)
            )
            bar = progress.add_task(f"{size}: an epoch", total=None)
            waitings.append(measure_waiting(size, setting, lambda bar=bar: progress.advance(bar)))
    for table in tables_of(loadings, waitings):
        console.print(table)
    is_met = all(waited.is_met for waited in waitings)
    report = {
        "limit": LIMIT,
        "is_met": is_met,
        "raw": f"{RAW_SIDE_PX} px PNG" if data is None else "files given",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "loading": {size: asdict(found) for size, found in loadings.items()},
        "waiting": [asdict(waited) | {"is_met": waited.is_met} for waited in waitings],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    console.print(f"figures in {out}")
    sys.exit(0 if is_met else 1)


if __name__ == "__main__":
    main()
