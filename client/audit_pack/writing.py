"""A site's own audit pack: a model's pages on the site's own pictures, written here, never sent.

The trainer's and the connector's processes do not know this module, and what they send has no
field for anything it makes. It works without either, and without a network.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from client.audit_pack.folder import take_folder, write_text
from client.audit_pack.measures import Measurements, measure_here
from client.audit_pack.page import index_page
from client.audit_pack.picture_page import other_pictures, picture_page
from client.audit_pack.pictures import neutral_name
from client.audit_pack.schema import FORMAT, PACK_FILE, Pack, PackPicture
from common.config.run import PreprocessConfig
from common.datasets.shard import Shard
from common.errors import DataError, ModelError
from common.explain import EXPLAINERS
from common.explaining.asked import Trust
from common.explaining.explain_picture import explain_picture, lineage
from common.explaining.jobs import INDEX
from common.explaining.picture_file import PreparedPicture
from common.explanation.schema import Explanation
from common.machine.seed import derive_seed
from common.package.loading import LoadedModel
from common.registry import unknown_name
from common.tasks import Task


@dataclass(frozen=True)
class Asked:
    """What a pack should hold."""

    site: str
    part: str
    pictures: int  # to be explained, at most
    methods: tuple[str, ...]
    trust: Trust
    preprocess: PreprocessConfig  # the site's


def write_audit_pack(
    model: LoadedModel,
    shard: Shard,
    asked: Asked,
    *,
    out: Path,
    now: Callable[[], datetime],
    progress: Callable[[int, int], None],
) -> Pack:
    """Write ``index.html``, ``pack.json`` and per picture ``picture-0001.html`` and ``.json``.

    The whole part is measured. Half of the explained pictures are those where the model is surest
    of what the label denies, the others are drawn by lot, so that a reader sees the usual ones too.

    Args:
        model: Opened package.
        shard: The site's prepared pictures.
        asked: What the pack should hold.
        out: Folder, empty or missing; made for its owner alone.
        now: The time.
        progress: Told how many pictures are explained, of how many.

    Raises:
        DataError: Shard and model do not belong together, the part is empty, or the folder is not.
        ModelError: The model has diverged, or there is no method of a name.
    """
    for name in asked.methods:
        if name not in EXPLAINERS:
            raise ModelError(unknown_name("explanation method", name, dict.fromkeys(EXPLAINERS)))
    task = fitting_task(model, shard)
    notes, rows = _notes(shard, asked, model.about(task.name).preprocess), shard.indices(asked.part)
    take_folder(out)  # before minutes of work
    found = measure_here(model, shard, asked.part, task=task)
    chosen = _chosen(found, len(rows), asked.pictures, seed=model.package.seed, task=task)
    others = None if asked.trust == "none" else other_pictures(shard, rows, task=task)

    def explain(picture: PreparedPicture) -> Explanation:
        return explain_picture(
            model,
            picture,
            task=task.name,
            now=now(),
            methods=asked.methods,
            trust=asked.trust,
            others=others,
        )

    progress(0, len(chosen))
    shown = []
    for place, is_disagreement in chosen:
        shown.append(
            picture_page(
                explain,
                shard,
                int(rows[place]),
                name=neutral_name(place),
                is_disagreement=is_disagreement,
                task=task,
                out=out,
            )
        )
        progress(len(shown), len(chosen))
    pack = _pack(model, asked, found, tuple(shown), task=task, notes=notes, now=now())
    write_text(out / PACK_FILE, f"{pack.model_dump_json(indent=1)}\n")
    write_text(out / f"{INDEX}.html", index_page(pack))
    return pack


def fitting_task(model: LoadedModel, shard: Shard) -> Task:
    """Return the task of a shard as the model has it.

    Raises DataError where task, labels, signs or size of pictures differ, naming both.
    """
    tasks = model.package.tasks
    if why := model.package.left_out.get(shard.task):
        raise DataError(
            f"the model of run {model.package.run} does not answer task {shard.task}: {why} "
            "Ask the coordinator for another model."
        )
    if shard.task not in tasks:
        raise DataError(
            f"the pictures here are of task {shard.task}, the model of run {model.package.run} "
            f"has {', '.join(tasks)}. Ask the coordinator for a model of {shard.task}."
        )
    about, side = tasks[shard.task], int(shard.images.shape[1])
    # A site without labels of signs can use a model that sees them.
    signs = shard.concept_names or about.concepts
    for what, here, theirs in (
        ("labels", ", ".join(shard.labels), ", ".join(about.labels)),
        ("signs", ", ".join(signs), ", ".join(about.concepts)),
        ("size", f"{side} px", f"{about.size_px} px"),
    ):
        if here != theirs:
            raise DataError(
                f"the pictures here were prepared with the {what} {here}, the model of run "
                f"{model.package.run} has {theirs}. Correct site.yaml and run `fovea-site "
                "prepare`, or ask the coordinator for a model of this federation."
            )
    return model.task(shard.task)


def _chosen(
    found: Measurements, total: int, wanted: int, *, seed: int, task: Task
) -> list[tuple[int, bool]]:
    """Return places of the part to explain, and whether each is there for a disagreement."""
    place_of = {neutral_name(place): place for place in range(total)}
    worst = list(dict.fromkeys(place_of[one.picture] for one in found.disagreements))
    worst = worst[: (wanted + 1) // 2]
    others = np.setdiff1d(np.arange(total), worst)
    rng = np.random.default_rng(derive_seed(seed, "audit pack pictures", task.name))
    drawn = rng.choice(others, size=min(wanted - len(worst), len(others)), replace=False)
    return [(place, True) for place in worst] + [(place, False) for place in sorted(drawn.tolist())]


def _pack(
    model: LoadedModel,
    asked: Asked,
    found: Measurements,
    shown: tuple[PackPicture, ...],
    *,
    task: Task,
    notes: tuple[str, ...],
    now: datetime,
) -> Pack:
    about = model.about(task.name)
    conformal = about.calibration.conformal if about.calibration else None
    why_no_coverage = (
        about.calibration.why_not_conformal if about.calibration else about.why_not_calibrated
    )
    return Pack(
        format=FORMAT,
        made_at=now.astimezone(UTC).isoformat(timespec="seconds"),
        site=asked.site,
        task=task.name,
        title=task.title,
        labels=task.labels,
        part=asked.part,
        pictures=found.pictures,
        patients=found.patients,
        size_px=about.size_px,
        model=lineage(model, about),
        notes=notes,
        is_calibrated=about.calibration is not None,
        coverage_wanted=conformal.coverage if conformal else None,
        coverage=found.coverage,
        coverage_of=found.coverage_of,
        why_no_coverage=why_no_coverage,
        novel=found.novel,
        novel_expected=about.novelty_share_expected,
        why_no_novelty=about.why_no_novelty,
        average_auroc=found.average_auroc,
        classes=found.classes,
        localisation=found.localisation,
        concepts=found.concepts,
        concept_localisation=found.concept_localisation,
        disagreements=found.disagreements,
        shown=shown,
    )


def _notes(shard: Shard, asked: Asked, theirs: PreprocessConfig) -> tuple[str, ...]:
    ours = asked.preprocess.model_dump()
    others = [key for key, value in theirs.model_dump().items() if ours[key] != value]
    unnamed = shard.unnamed_pictures(asked.part)
    notes: Sequence[str] = (
        "Of preparation, site.yaml and the model differ in: "
        f"{', '.join(others)}. What is measured holds for pictures as this site prepares them."
        if others
        else "",
        f"{unnamed} pictures name no patient and count as a patient each: intervals may be too "
        "narrow."
        if unnamed
        else "",
    )
    return tuple(note for note in notes if note)
