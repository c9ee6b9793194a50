"""Do prediction sets hold the right answer at every hospital, and at one that is left out?

Four hospitals with generated pictures and scanners of their own train one small model, as sites do,
in this process. Thresholds are then fitted on validation parts and judged on other patients:

- pooled: on all hospitals' validation parts together;
- own: on the hospital's own alone;
- left out: on all the others', for a hospital whose pictures were in none of them.

A fifth hospital, "new", with a scanner unlike the others, has not even trained. What is promised
is promised for the first two rows; the last rows show what is left of it elsewhere. The same for
what is novel: how many ordinary pictures are called so, and how many strange ones.

    python tests/benchmarks/coverage.py --out out/bench-coverage.json
"""

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from client.training.trainer import Trainer
from common.config.reading import canonical_json, load_config
from common.config.run import PhantomSource, RunConfig, SiteConfig
from common.datasets.prepare import prepare_shard
from common.datasets.shard import Shard
from common.datasets.sources import open_source
from common.local_site import LocalSite
from common.machine.seed import derive_seed, generator
from common.messages.kinds import TrainRequest, Update
from common.metrics.bootstrap import bootstrap, percentile_interval, ratio
from common.metrics.conformal import answer_sets
from common.model.arrays import array_names, read_arrays, write_arrays
from common.model.network import Network, Output, build_network
from common.model.schedule import steps_per_round
from common.package.answers import limits, nonconformities, questions, right_answers
from common.package.calibrating import calibrate, calibration_error
from common.package.familiarity import Novelty, learn_novelty
from common.package.known import NotKnown
from common.package.loading import network_input
from common.package.prediction_sets import prediction_sets
from common.package.responses import Responses, respond
from common.package.schema import Calibration
from common.package.shift import class_shift
from common.tasks import Task

CONFIGS = Path(__file__).parents[2] / "configs"
STRENGTHS = {"north": 0.2, "harbour": 0.4, "valley": 0.6, "coast": 0.8}  # of their scanners
NEW = "new"
NEW_STRENGTH = 1.0
PARTS = {"train": 0.4, "val": 0.3, "test": 0.3}
REPLICATES = 500
STRANGE = 100  # pictures of each strange kind

Model = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Row:
    """How often the sets of one hospital's pictures hold the right answer."""

    task: str
    site: str
    calibrated_on: str  # pooled, own, or left out
    coverage: float | None  # share of questions and pictures; None: too few to calibrate on
    low: float | None  # 95 % interval, bootstrap over patients
    high: float | None
    lowest: float | None  # of the answers, each by itself
    lowest_of: str
    members: float | None  # mean size of a set
    patients: int  # judged on


@dataclass(frozen=True)
class TaskResult:
    """One task's numbers."""

    task: str
    seconds: float  # training
    temperature: float
    error_before: float | None  # calibration error on test patients
    error_after: float | None
    rows: tuple[Row, ...]
    novel: dict[str, float]  # kind of picture → share called novel


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--rounds", type=click.IntRange(min=1), default=6, show_default=True)
@click.option("--patients", type=click.IntRange(min=50), default=260, show_default=True)
@click.option("--coverage", type=click.FloatRange(0.5, 0.99), default=0.9, show_default=True)
@click.option("--task", "tasks", multiple=True, default=("chestx", "retina"), show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
def main(
    *, out: Path, rounds: int, patients: int, coverage: float, tasks: Sequence[str], seed: int
) -> None:
    """Train, calibrate in each way, and write what came of it."""
    configs = [_config(name, rounds=rounds, patients=patients, seed=seed) for name in tasks]
    with tempfile.TemporaryDirectory() as folder:
        results = [_measure(config, Path(folder), coverage) for config in configs]
    out.parent.mkdir(parents=True, exist_ok=True)
    report = {"coverage": coverage, "rounds": rounds, "patients": patients, "seed": seed}
    out.write_text(json.dumps(report | {"tasks": [asdict(r) for r in results]}, indent=1) + "\n")
    for result in results:
        _show(result, coverage)


def _config(name: str, *, rounds: int, patients: int, seed: int) -> RunConfig:
    small = ["data.image_size_px=64", "model.image_size_px=64", "train.batch_size=8"]
    small += ["train.epochs=1", f"federation.rounds={rounds}", f"seed={seed}"]
    demo = load_config(CONFIGS / "experiments" / "demo.yaml", small).run
    source = _phantom(next(site for site in demo.sites if site.task == name))
    sites = tuple(
        SiteConfig(
            name=place,
            task=name,
            source=source.model_copy(update={"patients": patients, "scanner_strength": strength}),
        )
        for place, strength in (STRENGTHS | {NEW: NEW_STRENGTH}).items()
    )
    return demo.model_copy(update={"sites": sites, "tasks": {name: demo.tasks[name]}})


def _phantom(site: SiteConfig) -> PhantomSource:
    if not isinstance(site.source, PhantomSource):
        raise TypeError("the demo's sites have generated pictures.")
    return site.source


def _measure(config: RunConfig, folder: Path, coverage: float) -> TaskResult:
    task = config.task(config.sites[0].task)
    shards = {site.name: _shard(config, site, folder) for site in config.sites}
    began = time.monotonic()
    network = _trained(config, folder)
    seconds = time.monotonic() - began
    batch = config.evaluation.batch_size
    found = {
        part: {
            site: respond(network, shard, part, task=task, batch_size=batch)
            for site, shard in shards.items()
        }
        for part in ("val", "test")
    }
    trained = list(STRENGTHS)
    pooled = together([found["val"][site] for site in trained])
    tested = together([found["test"][site] for site in trained])
    rows = []
    for site in (*trained, NEW):
        others = [found["val"][other] for other in trained if other != site]
        for how, responses in (
            ("pooled", pooled),
            ("own", found["val"][site]),
            ("left out", together(others)),
        ):
            if site == NEW and how == "left out":
                continue  # for a hospital that has not trained that is what pooled is
            fitted = _fitted(responses, task, config, coverage)
            rows.append(_row(found["test"][site], fitted, task, site=site, how=how))
    calibration = calibrate(
        pooled,
        tested,
        task=task,
        coverage=coverage,
        seed=config.seed,
        shift=class_shift(task, config.loss),
    )
    if not isinstance(calibration, Calibration):
        raise TypeError(calibration.why)
    return TaskResult(
        task=task.name,
        seconds=seconds,
        temperature=calibration.temperature,
        error_before=calibration_error(tested, task=task, temperature=1.0),
        error_after=calibration_error(
            tested, task=task, temperature=calibration.temperature, shift=calibration.shift
        ),
        rows=tuple(rows),
        novel=_novel(network, task, config, pooled=pooled, tested=tested, new=found["test"][NEW]),
    )


def _shard(config: RunConfig, site: SiteConfig, folder: Path) -> Shard:
    task = config.task(site.task)
    source = open_source(
        _phantom(site),
        task=task,
        data_root=folder,
        config_root=CONFIGS,
        site=site.name,
        seed=derive_seed(config.seed, site.name),
    )
    return prepare_shard(
        source,
        task=task,
        parts=PARTS,
        data=config.data,
        seed=config.seed,
        out=folder / task.name / site.name,
    )


def _trained(config: RunConfig, folder: Path) -> Network:
    """Return the model that all but the new hospital train by federated averaging."""
    task = config.sites[0].task
    trainers = [
        Trainer(
            LocalSite(
                name=site,
                task=task,
                shard=folder / task / site,
                state=folder / f"state-{task}",
                num_threads=1,  # pictures this small keep no second one busy
            )
        )
        for site in STRENGTHS
    ]
    network = build_network(config.model, config.task_table(), seed=config.seed)
    model: Model = {n: a.copy() for n, a in read_arrays(network, array_names(network)).items()}
    for server_round in range(1, config.federation.rounds + 1):
        updates = [_update(trainer, config, model, server_round) for trainer in trainers]
        weight = sum(update.num_examples for update in updates)
        for name in updates[0].arrays:
            moved = sum(update.num_examples * update.arrays[name] for update in updates)
            model[name] = (model[name] + moved / weight).astype(np.float32)
    write_arrays(network, model)
    return network


def _update(trainer: Trainer, config: RunConfig, model: Model, server_round: int) -> Update:
    steps = steps_per_round(
        trainer.describe().num_examples,
        batch_size=config.train.batch_size,
        epochs=config.train.epochs,
    )
    update = trainer.train(
        TrainRequest(
            run=f"coverage-{config.seed}",
            server_round=server_round,
            global_step=(server_round - 1) * steps,
            total_steps=config.federation.rounds * steps,
            proximal_mu=0.0,
            evaluates=False,
            config_json=canonical_json(config),
            arrays=model,
        )
    )
    if not isinstance(update, Update):
        raise TypeError(f"{update.site} did not train: {update.reason}")
    return update


def together(responses: Sequence[Responses]) -> Responses:
    """Return the responses of several hospitals as one; no patient is at two of them."""
    offsets = np.cumsum([0, *(int(r.patients.max()) + 1 for r in responses)])
    return Responses(
        class_logits=np.concatenate([r.class_logits for r in responses]),
        logits=np.concatenate([r.logits for r in responses]),
        concept_logits=np.concatenate([r.concept_logits for r in responses]),
        features=np.concatenate([r.features for r in responses]),
        targets=np.concatenate([r.targets for r in responses]),
        patients=np.concatenate(
            [r.patients + first for r, first in zip(responses, offsets, strict=False)]
        ).astype(np.int32),
    )


def _fitted(
    responses: Responses, task: Task, config: RunConfig, coverage: float
) -> Mapping[str, float]:
    fitted = prediction_sets(responses, responses, task=task, coverage=coverage, seed=config.seed)
    return {} if isinstance(fitted, NotKnown) else fitted.thresholds


def _row(
    responses: Responses, thresholds: Mapping[str, float], task: Task, *, site: str, how: str
) -> Row:
    scores = nonconformities(responses.class_logits, task=task)
    pictures = len(responses)
    covered, asked, members = np.zeros(pictures), np.zeros(pictures), np.zeros(pictures)
    by_answer: dict[str, float] = {}
    for number, question in enumerate(questions(task)):
        if not set(question.keys) <= set(thresholds):
            continue
        right = right_answers(responses.targets, number)
        sets = answer_sets(
            scores[number], limits(question, thresholds), is_ordered=question.is_ordered
        )
        known = right >= 0
        holds = known & sets[np.arange(pictures), np.maximum(right, 0)]
        covered += holds
        asked += known
        members += known * sets.sum(axis=1)
        for answer, key in enumerate(question.keys):
            if (right == answer).any():
                by_answer[key] = float(holds[right == answer].mean())
    if not by_answer:
        return Row(task.name, site, how, None, None, None, None, "", None, responses.num_patients)

    def share(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return ratio(weights @ covered, weights @ asked)

    drawn = bootstrap(
        share, responses.patients, replicates=REPLICATES, rng=np.random.default_rng(0)
    )
    low, high = percentile_interval(drawn) or (None, None)
    lowest_of = min(by_answer, key=lambda key: by_answer[key])
    return Row(
        task=task.name,
        site=site,
        calibrated_on=how,
        coverage=float(covered.sum() / asked.sum()),
        low=low,
        high=high,
        lowest=by_answer[lowest_of],
        lowest_of=lowest_of,
        members=float(members.sum() / asked.sum()),
        patients=responses.num_patients,
    )


def _novel(
    network: Network,
    task: Task,
    config: RunConfig,
    *,
    pooled: Responses,
    tested: Responses,
    new: Responses,
) -> dict[str, float]:
    known = learn_novelty(pooled, tested, task=task, seed=config.seed)
    if not isinstance(known, Novelty):
        raise TypeError(known.why)
    limit = known.limit.value
    kinds = {"ordinary": tested.features, "new hospital": new.features}
    kinds |= {
        kind: _features(network, task, pictures)
        for kind, pictures in _strange(config, task).items()
    }
    return {
        kind: float((known.familiar.distance(features) > limit).mean())
        for kind, features in kinds.items()
    }


def _features(network: Network, task: Task, pictures: Tensor) -> NDArray[np.float32]:
    network.eval()
    with torch.inference_mode():
        output: Output = network(pictures, task=task.name)
    return output.pooled.numpy()


def _strange(config: RunConfig, task: Task) -> dict[str, Tensor]:
    """Return pictures that no hospital of this task would send, as the network sees them."""
    size = config.data.image_size_px
    demo = load_config(CONFIGS / "experiments" / "demo.yaml").run
    drawn = {name: _drawn(demo, name, size) for name in ("chestx", "retina", "pathoscan")}
    rng = np.random.default_rng(derive_seed(config.seed, "strange"))
    own = drawn[task.name]
    return {
        **{f"of {name}": network_input(p) for name, p in drawn.items() if name != task.name},
        "inverted": network_input(255 - own),
        "upside down": network_input(own[:, ::-1].copy()),
        "noise": torch.randn((STRANGE, 3, size, size), generator=generator(config.seed)),
        "half masked": network_input(_half_masked(own)),
        "noisy": network_input(
            np.clip(own + rng.normal(0, 50, own.shape), 0, 255).astype(np.uint8)
        ),
        "black": network_input(np.zeros_like(own)),
    }


def _half_masked(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    masked = pictures.copy()
    masked[:, :, : masked.shape[2] // 2] = 0
    return masked


def _drawn(config: RunConfig, name: str, size_px: int) -> NDArray[np.uint8]:
    """Return prepared phantoms of a task, (N, S, S, C), of one more hospital."""
    source = _phantom(next(site for site in config.sites if site.task == name))
    data = config.data.model_copy(update={"image_size_px": size_px})
    with tempfile.TemporaryDirectory() as folder:
        shard = prepare_shard(
            open_source(
                source.model_copy(update={"patients": STRANGE}),
                task=config.task(name),
                data_root=Path(folder),
                config_root=CONFIGS,
                site="strange",
                seed=derive_seed(config.seed, "strange", name),
            ),
            task=config.task(name),
            parts=PARTS,
            data=data,
            seed=config.seed,
            out=Path(folder) / "shard",
        )
        return np.array(shard.images)


def _show(result: TaskResult, coverage: float) -> None:
    table = Table(
        "Hospital", "calibrated on", "coverage", "95 %", "lowest answer", "set size", "of"
    )
    for row in result.rows:
        if row.coverage is None or row.lowest is None or row.members is None:
            table.add_row(row.site, row.calibrated_on, "too few", "", "", "", str(row.patients))
            continue
        interval = "" if row.low is None or row.high is None else f"{row.low:.2f}–{row.high:.2f}"
        table.add_row(
            row.site,
            row.calibrated_on,
            f"{row.coverage:.3f}",
            interval,
            f"{row.lowest:.2f} {row.lowest_of}",
            f"{row.members:.2f}",
            str(row.patients),
        )
    console = Console()
    console.print(
        f"{result.task}: {coverage:g} wanted; temperature {result.temperature:.2f}, calibration "
        f"error {result.error_before or 0:.3f} → {result.error_after or 0:.3f}; trained in "
        f"{result.seconds:.0f} s"
    )
    console.print(table)
    console.print("called novel: " + ", ".join(f"{k} {v:.2f}" for k, v in result.novel.items()))


if __name__ == "__main__":
    main()
