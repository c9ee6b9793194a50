"""How good is each explanation method? Trains a small network per set and measures every method.

Finished methods are kept one by one, and so are networks: a study that was cut goes on where it
was. A method that fails is a row that says why.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from common.errors import FoveaError
from common.explain import EXPLAINERS, Explainer
from common.files.whole_file import write_whole
from common.learning.evaluate import evaluate, measure
from common.model.arrays import array_names, read_arrays
from common.model.network import Network
from common.package.loading import LoadedModel, open_package
from common.studies.explanations_config import ExplanationsConfig
from common.studies.explanations_measures import OWN, measure_method
from common.studies.explanations_results import KeptRows, Report, Row, SetFigures, report_json
from common.studies.explanations_sets import PreparedSet, by_logit, cases_of, prepare_set
from common.studies.explanations_subject import Subject, subject_of
from common.studies.explanations_tables import markdown
from common.studies.explanations_training import trained_network

JSON_FILE = "explanations.json"
TABLE_FILE = "explanations.md"
ROWS_FILE = "rows.jsonl"
_COMMON = Path(__file__).parents[1]
_TRAINING_CODE = ("learning/loss.py", "datasets/transforms.py", "model/*.py", "datasets/loader.py",
                  "studies/explanations_training.py")  # fmt: skip
_MEASURING_CODE = ("explain/*.py", "metrics/*.py", "model/*.py",
                   "studies/explanations_[ms]*.py")  # fmt: skip


def carry_out(
    config: ExplanationsConfig,
    *,
    methods: Sequence[str],
    data_root: Path | None,
    model: Path | None,
    out: Path,
    tell: Callable[[str], None],
) -> Report:
    """Measure every method on every set and write the report, anew after each method.

    Args:
        config: What to measure; restrict ``sets`` to measure fewer.
        methods: Names of ``EXPLAINERS``.
        data_root: Folder of real pictures; None: sets that need it are left out.
        model: A run's folder or a package whose network is measured; None: one is trained per set.
        out: Folder for the report, the kept rows, the networks and the prepared pictures.
        tell: Called with what has been done, once per method and set.

    Raises:
        ModelError: The package cannot be opened.
        DataError: The kept rows are damaged.
    """
    loaded = None if model is None else open_package(model)
    kept = KeptRows(out / ROWS_FILE)
    figures: list[SetFigures] = []
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    for name in config.sets:
        try:
            subject = subject_for(name, config, data_root=data_root, loaded=loaded, out=out)
            figures.append(_figures(subject, model=model))
        except FoveaError as error:
            left_out[name] = str(error)
            for method in methods:
                tell(f"{name}, {method}: left out")
            continue
        for method in methods:
            rows.append(_row(subject, method, kept))
            tell(f"{name}, {method}")
            _write(Report(tuple(figures), tuple(rows), left_out), config, out)
    report = Report(tuple(figures), tuple(rows), left_out)
    _write(report, config, out)
    return report


def subject_for(
    name: str,
    config: ExplanationsConfig,
    *,
    data_root: Path | None,
    loaded: LoadedModel | None,
    out: Path,
) -> Subject:
    """Return what every method is measured on in one set: pictures, cases, networks.

    Arguments as of :func:`carry_out`; ``loaded`` is the opened package.

    Raises:
        FoveaError: The set has no pictures, no regions, or asks for what its recipe or the model
            does not have.
    """
    chosen = config.sets[name]
    work = out / "work"
    prepared = prepare_set(
        name,
        chosen,
        data_root=data_root,
        work=work,
        seed=config.seeds[0],
        model=None if loaded is None else loaded.about(chosen.task),
    )
    networks = [loaded.network] if loaded is not None else _trained(prepared, config, work)
    cases = cases_of(prepared, at_most=config.pictures, seed=config.seeds[0])
    return subject_of(prepared, networks, cases, EXPLAINERS.get(OWN), config)


def _trained(prepared: PreparedSet, config: ExplanationsConfig, work: Path) -> list[Network]:
    folder = work / prepared.digest[:16]
    code = _digest(*_TRAINING_CODE)[:16]
    return [
        trained_network(prepared, seed=seed, kept=folder / f"network_{seed}_{code}.safetensors")
        for seed in config.seeds
    ]


def _figures(subject: Subject, *, model: Path | None) -> SetFigures:
    prepared, config = subject.prepared, subject.config
    shard, run, task = prepared.shard, prepared.run, prepared.task
    predicted = evaluate(
        subject.network,
        shard,
        "test",
        task=task,
        loss=run.loss,
        batch_size=run.evaluation.batch_size,
    )
    report = measure(predicted, config=run.evaluation, seed=config.seeds[0])
    recipe = Path(prepared.config.recipe).name
    origin = f"Network of {recipe}, {prepared.config.steps} steps, seed {config.seeds[0]}"
    if model is not None:
        origin = f"Network of {model.name}; it may have been trained on these pictures"
    return SetFigures(
        name=prepared.name,
        title=prepared.config.title,
        caution=prepared.config.caution,
        task=task.name,
        size_px=int(shard.images.shape[1]),
        network=origin,
        training_pictures=len(shard.indices("train")) if model is None else 0,
        test_pictures=len(shard.indices("test")),
        cases={
            task.logit_names[logit]: len(places)
            for logit, places in by_logit(subject.cases).items()
        },
        patients=tuple(case.patient for case in subject.cases),
        auroc=report.classification.average["auroc"],
        roi_drop=subject.estimate(subject.drops.inside, use="drop"),
        elsewhere_drop=subject.estimate(subject.drops.elsewhere, use="drop"),
    )


def _row(subject: Subject, method: str, kept: KeptRows) -> Row:
    """Return a method's row: kept, measured now, or why it cannot be measured."""
    digest = _row_digest(subject, method)
    known = kept.known(digest)
    if known is not None:
        return known
    try:
        explain: Explainer = EXPLAINERS.get(method)
        row = measure_method(subject, method, explain)
    except Exception as error:  # whatever a method raises belongs in its row
        return Row(
            set_name=subject.prepared.name,
            method=method,
            failure=f"{type(error).__name__}: {error}",
            seconds=None,
            estimates={},
            cases={},
            sanity=None,
            notes=(),
        )
    kept.keep(row, digest)
    return row


def _row_digest(subject: Subject, method: str) -> str:
    """Return a digest of all that decides a row: settings, pictures, weights and code."""
    digest = hashlib.sha256()
    settings = subject.config.model_dump_json(exclude={"sets", "corrections"})
    measured = subject.prepared.config.model_dump_json(include={"measured", "bar_margin"})
    name = subject.prepared.name
    for text in (method, name, settings, measured, subject.prepared.digest):
        digest.update(text.encode() + b"\x1f")
    for network in (subject.network, *subject.others):
        for array in read_arrays(network, array_names(network)).values():
            digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(_digest(*_MEASURING_CODE).encode())
    return digest.hexdigest()


@cache
def _digest(*patterns: str) -> str:
    """Return a digest of the code that decides a figure: after a change it is measured anew."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in _COMMON.glob(pattern)}):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _write(report: Report, config: ExplanationsConfig, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / JSON_FILE, report_json(report))
    write_whole(out / TABLE_FILE, markdown(report, config).encode())
