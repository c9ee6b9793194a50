"""A site's audit pack: true numbers, neutral names, closed to others, and nothing of it leaves."""

import ast
import json
import os
import pwd
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from read_html import taken_apart
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from client.audit_pack.measures import disagreements, share_estimate
from client.audit_pack.page import index_page, with_labels
from client.audit_pack.pictures import extent_of, labels_of, shard_picture
from client.audit_pack.schema import PACK_FILE, Pack
from client.audit_pack.writing import Asked, write_audit_pack
from client.cli import main
from client.commands.auditing import PARTS
from client.home.folders import SiteHome
from client.home.site import SiteSettings
from client.records.audit import export
from client.training.trainer import Trainer
from common.config.run import RunConfig
from common.datasets.shard import SITE_PARTS, Shard, lesion_masks, open_shard
from common.errors import DataError, ModelError
from common.explaining.explain_picture import explain_picture
from common.explanation.schema import Explanation
from common.local_site import LocalSite
from common.package.loading import LoadedModel, network_input, open_package
from common.package.responses import Responses
from common.package.schema import Calibration
from common.package.writing import write_package
from common.pages.figures import FORMS, WORDINGS, read
from small_model import small_model

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
REPOSITORY = Path(__file__).parents[3]
MakeConfig = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    """A model whose sets rule out some right answers and keep others."""
    torch.set_num_threads(1)
    plain = small_model()
    about = plain.about("retina")
    assert about.calibration is not None
    assert about.calibration.conformal is not None
    limits = dict(zip(about.labels, (0.5, 0.5, 0.9, 0.9, 0.5), strict=True))
    conformal = about.calibration.conformal.model_copy(update={"thresholds": limits})
    calibration = about.calibration.model_copy(update={"conformal": conformal})
    tasks = plain.package.tasks | {"retina": about.model_copy(update={"calibration": calibration})}
    return replace(plain, package=plain.package.model_copy(update={"tasks": tasks}))


@pytest.fixture(scope="module")
def shard(shards: dict[str, Path]) -> Shard:
    return open_shard(shards["valley"])


def asked(model: LoadedModel, part: str = "train", **changes: object) -> Asked:
    plain = Asked(
        site="hospital",
        part=part,
        pictures=4,
        methods=(),
        trust="none",
        preprocess=model.about("retina").preprocess,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def write(model: LoadedModel, shard: Shard, wanted: Asked, out: Path) -> Pack:
    return write_audit_pack(
        model, shard, wanted, out=out, now=lambda: NOW, progress=lambda _done, _total: None
    )


@pytest.fixture(scope="module")
def folder(
    model: LoadedModel, shard: Shard, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Pack]:
    out = tmp_path_factory.mktemp("packs") / "pack"
    return out, write(model, shard, asked(model), out)


# --- what is written -----------------------------------------------------------------------


def test_a_pack_is_for_its_owner_alone(folder: tuple[Path, Pack]) -> None:
    out, pack = folder
    names = {path.name for path in out.iterdir()}

    pages = {one.page for one in pack.shown}
    documents = {page.replace(".html", ".json") for page in pages}
    assert len(pages) == 4
    assert names == {"index.html", PACK_FILE, *pages, *documents}
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o600}


def test_a_folder_that_others_could_read_is_closed(
    model: LoadedModel, shard: Shard, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)

    write(model, shard, asked(model, pictures=0), tmp_path)

    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_a_folder_with_other_files_is_left_alone(
    model: LoadedModel, shard: Shard, tmp_path: Path
) -> None:
    (tmp_path / "letter.txt").touch()

    with pytest.raises(DataError, match="not empty"):
        write(model, shard, asked(model), tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_pictures_have_neutral_names_and_no_patient(folder: tuple[Path, Pack]) -> None:
    out, pack = folder

    assert all(one.name.startswith("picture-0") for one in pack.shown)
    # The phantoms' patients are called after their site.
    assert not [path.name for path in out.iterdir() if "valley" in path.read_text()]


def test_what_is_written_is_what_is_returned(folder: tuple[Path, Pack]) -> None:
    out, pack = folder

    assert Pack.model_validate_json((out / PACK_FILE).read_bytes()) == pack
    for one in pack.shown:
        made = Explanation.model_validate_json((out / f"{one.name}.json").read_bytes())
        assert (made.picture.name, made.answer) == (one.name, one.answer)


def test_half_of_the_pages_are_disagreements_and_the_rest_is_drawn(
    folder: tuple[Path, Pack],
) -> None:
    _, pack = folder
    worst = list(dict.fromkeys(one.picture for one in pack.disagreements))

    assert [one.name for one in pack.shown if one.chosen_as == "disagreement"] == worst[:2]
    assert len({one.name for one in pack.shown}) == 4


def test_a_picture_that_cannot_be_explained_does_not_stop_the_others(
    model: LoadedModel, shard: Shard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: object, **options: object) -> Explanation:
        if arguments[1].name == "picture-0002":  # type: ignore[attr-defined]
            raise DataError("a <bad> picture.")
        return explain_picture(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("client.audit_pack.writing.explain_picture", failing)
    pack = write(model, shard, asked(model, "val", pictures=9), tmp_path)

    failures = {one.name: (one.page, one.failure) for one in pack.shown if one.failure}
    assert failures == {"picture-0002": ("", "a <bad> picture.")}
    assert len(pack.shown) == len(shard.indices("val"))
    assert "a &lt;bad&gt; picture." in (tmp_path / "index.html").read_text()
    assert not (tmp_path / "picture-0002.html").exists()


def test_whatever_a_library_raises_for_a_picture_is_reported_without_its_words(
    model: LoadedModel, shard: Shard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: object, **options: object) -> Explanation:
        if arguments[1].name == "picture-0002":  # type: ignore[attr-defined]
            raise RuntimeError("Smith^John")
        if arguments[1].name == "picture-0003":  # type: ignore[attr-defined]
            quoted = ValueError("Smith^John")
            raise DataError(f"it cannot be read ({quoted}).") from quoted
        return explain_picture(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("client.audit_pack.writing.explain_picture", failing)
    pack = write(model, shard, asked(model, "val", pictures=9), tmp_path)

    failed = {one.name: one.failure for one in pack.shown if one.failure}
    assert set(failed) == {"picture-0002", "picture-0003"}
    assert failed["picture-0002"].startswith(
        "explaining it broke down (RuntimeError in client.audit_pack."
    )
    assert failed["picture-0003"] == "it cannot be read (ValueError)."
    assert "Smith" not in "".join(path.read_text() for path in tmp_path.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_and_a_lack_of_memory_end_a_pack(
    model: LoadedModel,
    shard: Shard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
) -> None:
    def failing(*_: object, **__: object) -> Explanation:
        raise error

    monkeypatch.setattr("client.audit_pack.writing.explain_picture", failing)

    with pytest.raises(error):
        write(model, shard, asked(model, "val", pictures=1), tmp_path)


def test_stability_is_held_against_other_pictures_of_the_part(
    model: LoadedModel, shard: Shard, tmp_path: Path
) -> None:
    pack = write(model, shard, asked(model, "val", pictures=1, trust="own"), tmp_path / "out")

    (one,) = pack.shown
    made = Explanation.model_validate_json((tmp_path / "out" / f"{one.name}.json").read_bytes())
    measured = [method.stability for found in made.findings for method in found.methods]
    (stability,) = filter(None, measured)
    assert stability.others == "other pictures of this part"
    assert len(stability.other_pictures) == min(4, len(shard.indices("val")) - 1)


# --- the numbers ---------------------------------------------------------------------------


def test_coverage_is_how_often_the_sets_hold_the_label(
    folder: tuple[Path, Pack], model: LoadedModel, shard: Shard
) -> None:
    _, pack = folder
    rows = shard.indices("train")
    sets = model.predict("retina", network_input(shard.images[rows])).sets
    assert sets is not None
    task = model.task("retina")
    holds = [
        labels_of(shard, int(row), task=task)["severity"] in found[0].members
        for row, found in zip(rows, sets, strict=True)
    ]

    assert 0 < sum(holds) < len(rows)
    assert pack.coverage is not None
    assert pack.coverage.value == pytest.approx(np.mean(holds), rel=1e-5)
    assert pack.coverage.support == len(rows)
    by_answer = [one.coverage for one in pack.coverage_of]
    held = sum(one.support * (one.value or 0) for one in by_answer)
    assert held == pytest.approx(sum(holds), rel=1e-5)


def test_auroc_is_that_of_scikit_learn_with_its_support(
    folder: tuple[Path, Pack], model: LoadedModel, shard: Shard
) -> None:
    _, pack = folder
    rows = shard.indices("train")
    chances = model.predict("retina", network_input(shard.images[rows])).uncalibrated
    grades = shard.targets[rows, 0]
    compared = 0
    for step, figures in enumerate(pack.classes, start=1):
        is_positive = grades >= step
        assert figures.positives == is_positive.sum()
        if 0 < is_positive.sum() < len(rows):
            expected = roc_auc_score(is_positive, chances[:, step - 1])
            assert figures.auroc.value == pytest.approx(expected, rel=1e-5)
            compared += 1
    assert compared > 0


def test_regions_are_compared_where_there_are_any(
    folder: tuple[Path, Pack], model: LoadedModel, shard: Shard
) -> None:
    _, pack = folder
    task = model.task("retina")
    with_region = [row for row in shard.indices("train") if lesion_masks(shard, int(row), task)]

    assert with_region
    (only,) = pack.localisation
    assert (only.name, only.pointing_hit.support) == ("severity", len(with_region))
    assert only.pointing_hit.chance is not None


@pytest.mark.parametrize(("limit", "share"), [(0.0, 1.0), (1e6, 0.0), (None, None)])
def test_the_share_of_novel_pictures_follows_the_models_limit(
    shard: Shard, tmp_path: Path, limit: float | None, share: float | None
) -> None:
    model = small_model(novelty_limit=limit)

    pack = write(model, shard, asked(model, "val", pictures=0), tmp_path / "out")

    assert (pack.novel.value if pack.novel else None) == share


def test_a_model_without_calibration_has_no_coverage_and_says_why(
    shard: Shard, tmp_path: Path
) -> None:
    model = small_model(is_calibrated=False)

    pack = write(model, shard, asked(model, "val", pictures=1), tmp_path / "out")

    assert (pack.coverage, pack.coverage_of) == (None, ())
    assert pack.why_no_coverage in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.parametrize("is_so", [0.0, 1.0])
def test_a_share_of_all_or_none_has_exact_bounds(is_so: float) -> None:
    found = share_estimate(
        np.array([is_so] * 12 + [np.nan]),
        np.array([*range(12), 12], dtype=np.int32),
        rng=np.random.default_rng(1),
    )

    expected = binomtest(int(12 * is_so), 12).proportion_ci(method="exact")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-5)
    assert (found.value, found.support) == (is_so, 12)


def test_a_share_between_has_an_interval_over_patients_or_says_why_not() -> None:
    rng = np.random.default_rng(1)
    values, patients = np.tile([0.0, 1.0], 30), np.arange(60, dtype=np.int32)

    many = share_estimate(values, patients, rng=rng)
    few = share_estimate(values, patients // 10, rng=rng)

    assert many.low is not None
    assert many.high is not None
    assert many.low < 0.5 < many.high
    assert (few.low, few.note) == (None, "no interval: 6 patients, 20 needed")


def test_disagreements_are_all_there_the_surest_first(model: LoadedModel) -> None:
    task = model.task("chestx")  # Effusion, Mass, Nodule
    responses = Responses(
        class_logits=np.array([[4.0, -1.0, 0.0], [-2.0, 3.0, -9.0]], np.float32),
        logits=np.zeros((2, 3), np.float32),
        concept_logits=np.zeros((2, 0), np.float32),
        features=np.zeros((2, 4), np.float32),
        targets=np.array([[0, 0, 1], [1, 1, np.nan]], np.float32),
        patients=np.array([0, 1], np.int32),
    )

    calibration = Calibration.model_construct(temperature=2.0, shift={"Mass": 4.0})
    found = disagreements(responses, calibration=calibration, task=task)

    assert [(one.picture, one.question, one.label, one.said) for one in found] == [
        ("picture-0001", "Effusion", "absent", "present"),
        ("picture-0002", "Effusion", "present", "absent"),
        ("picture-0002", "Mass", "present", "absent"),  # 3 is what its weight of positives gives
    ]
    expected = [1 / (1 + np.exp(2)), 1 / (1 + np.exp(1)), 1 / (1 + np.exp(0.5))]
    assert [one.label_probability for one in found] == pytest.approx(expected, rel=1e-5)


def test_a_grade_is_said_as_far_as_it_is_reached(model: LoadedModel) -> None:
    task = model.task("retina")
    responses = Responses(
        class_logits=np.array([[2.0, 1.0, -1.0, -2.0]] * 2, np.float32),
        logits=np.zeros((2, 1), np.float32),
        concept_logits=np.zeros((2, 0), np.float32),
        features=np.zeros((2, 4), np.float32),
        targets=np.array([[2], [4]], np.float32),
        patients=np.array([0, 1], np.int32),
    )

    (only,) = disagreements(responses, calibration=None, task=task)

    assert (only.picture, only.label, only.said) == (
        "picture-0002",
        task.labels[4],
        task.labels[2],
    )
    assert only.label_probability == pytest.approx(1 / (1 + np.exp(2)), rel=1e-5)


# --- the pages -----------------------------------------------------------------------------


def test_every_number_of_the_index_is_in_the_json_beside_it(folder: tuple[Path, Pack]) -> None:
    out, _ = folder
    document = json.loads((out / PACK_FILE).read_text())
    html = taken_apart((out / "index.html").read_text())

    shown = html.shown("data")
    assert len(shown) > 20
    for piece in shown:
        source, form = piece.attributes["data-from"], piece.attributes["data-as"]
        assert source is not None
        value = read(document, source)
        assert isinstance(value, int | float)
        assert piece.text == FORMS[str(form)](value)
    for piece in html.shown("span"):
        if source := piece.attributes.get("data-from"):
            wording = WORDINGS[str(piece.attributes["data-as"])]
            assert piece.text == wording(str(read(document, source)))
    rest = "".join(html.outside).replace("95 % interval", "")
    assert not any(letter.isdigit() for letter in rest)


def test_the_index_says_what_is_not_promised_and_links_every_page(
    folder: tuple[Path, Pack],
) -> None:
    out, pack = folder
    page = (out / "index.html").read_text()
    links = {piece.attributes["href"] for piece in taken_apart(page).shown("a")}

    assert "no promise where pictures differ from the calibration set" in page
    assert {one.page for one in pack.shown} <= links
    assert "default-src 'none'" in page.replace("&#x27;", "'")
    assert "http://" not in page
    assert "https://" not in page


def test_where_no_label_is_known_model_and_label_are_not_said_to_agree(
    folder: tuple[Path, Pack],
) -> None:
    _, pack = folder
    unknown = tuple(
        one.model_copy(update={"auroc": one.auroc.model_copy(update={"support": 0})})
        for one in pack.classes
    )
    nowhere = pack.model_copy(update={"disagreements": ()})
    assert "Nowhere in this part." in index_page(nowhere)
    page = index_page(nowhere.model_copy(update={"classes": unknown}))
    assert "No label of this part is known" in page
    assert "Nowhere" not in page


@pytest.mark.parametrize(
    ("is_sure", "is_novel", "words"),
    [
        (True, False, "● sure: one answer is left to each question, and it is the more probable"),
        (False, False, "◐ not sure"),
        (None, None, "no prediction set"),
        (True, True, "▲ unlike the pictures it knows"),
    ],
)
def test_how_far_an_answer_holds_is_said_as_it_is_meant(
    folder: tuple[Path, Pack], *, is_sure: bool | None, is_novel: bool | None, words: str
) -> None:
    _, pack = folder
    first = pack.shown[0].model_copy(update={"is_sure": is_sure, "is_novel": is_novel})

    html = taken_apart(index_page(pack.model_copy(update={"shown": (first,)})))

    (line,) = (
        row.text
        for row in html.shown("tr")
        if "by lot" in row.text or "model and label differ" in row.text
    )
    assert words in line


def test_label_and_region_are_on_the_page_and_the_label_is_closed(
    folder: tuple[Path, Pack], model: LoadedModel, shard: Shard
) -> None:
    out, pack = folder
    task, rows = model.task("retina"), shard.indices("train")
    for one in pack.shown:
        index = int(rows[int(one.name[-4:]) - 1])
        html = taken_apart((out / one.page).read_text())
        made = Explanation.model_validate_json((out / f"{one.name}.json").read_bytes())

        (closed,) = (piece for piece in html.shown("details") if "Severity" in piece.text)
        assert one.labels == labels_of(shard, index, task=task)
        assert one.labels["severity"] in closed.text
        assert "open" not in closed.attributes
        assert (made.roi is not None) is bool(lesion_masks(shard, index, task))


def test_a_page_without_a_place_for_labels_is_an_error() -> None:
    with pytest.raises(DataError, match="</main>"):
        with_labels("<p>nothing</p>", {}, has_region=False)


def test_labels_cannot_add_to_the_page() -> None:
    page = with_labels("<main></main>", {"<b>": "<script>"}, has_region=True)

    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_another_preparation_and_unnamed_patients_are_said(
    model: LoadedModel, shard: Shard, tmp_path: Path
) -> None:
    theirs = model.about("retina").preprocess
    unnamed = replace(
        shard,
        card=replace(
            shard.card, parts=tuple(replace(p, unnamed_pictures=3) for p in shard.card.parts)
        ),
    )
    wanted = asked(
        model,
        "val",
        pictures=0,
        preprocess=theirs.model_copy(update={"clahe_clip_limit": 0.5}),
    )

    pack = write(model, unnamed, wanted, tmp_path / "out")

    assert "differ in: clahe_clip_limit." in pack.notes[0]
    assert pack.notes[1].startswith("3 pictures name no patient")


# --- pictures ------------------------------------------------------------------------------


def test_padding_is_told_from_the_picture() -> None:
    image = np.full((64, 64, 3), 7, np.uint8)
    image[16:48] = np.random.default_rng(1).integers(8, 250, (32, 64, 3))

    found = extent_of(image)

    assert (found.top, found.left, found.height, found.width) == (0.25, 0, 0.5, 1)


@pytest.mark.parametrize("rows", [slice(0, 0), slice(30, 64)])
def test_a_picture_that_is_flat_or_flat_on_one_side_is_not_padded(rows: slice) -> None:
    image = np.zeros((64, 64, 1), np.uint8)
    image[rows] = np.arange(1, 65, dtype=np.uint8)[:, None]

    found = extent_of(image)

    assert (found.top, found.height, found.left, found.width) == (0, 1, 0, 1)


def test_the_region_is_all_lesions_of_the_picture(model: LoadedModel, shard: Shard) -> None:
    task = model.task("retina")
    index = next(n for n in range(len(shard)) if lesion_masks(shard, n, task))

    picture = shard_picture(shard, index, name="picture-0001", task=task)

    assert picture.region is not None
    assert np.array_equal(picture.region, lesion_masks(shard, index, task)[0])
    assert np.array_equal(picture.image, shard.images[index])


# --- what does not fit ---------------------------------------------------------------------


def test_a_model_of_other_labels_size_or_task_is_refused_with_both_named(
    model: LoadedModel, shard: Shard, tmp_path: Path
) -> None:
    larger = replace(shard, images=np.zeros((len(shard), 96, 96, 3), np.uint8))
    other = replace(shard, labels=("fine", "ill"))
    knees = replace(shard, task="knee")
    signs = replace(shard, concept_names=("spots",))
    for site, here, theirs in (
        (larger, "96 px", "64 px"),
        (other, "fine, ill", shard.labels[0]),
        (signs, "spots", model.about("retina").concepts[0]),
        (knees, "knee", "retina"),
    ):
        with pytest.raises(DataError) as refused:
            write(model, site, asked(model), tmp_path / "out")
        assert here in str(refused.value)
        assert theirs in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_an_unknown_method_is_refused_before_anything_is_done(
    model: LoadedModel, shard: Shard, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="Did you mean 'grad-cam'"):
        write(model, shard, asked(model, methods=("grad-camp",)), tmp_path / "out")

    assert not (tmp_path / "out").exists()


def test_a_model_that_has_diverged_is_refused(shard: Shard, tmp_path: Path) -> None:
    model = small_model()
    with torch.no_grad():
        next(model.network.heads.parameters()).fill_(float("nan"))
        for parameter in model.network.heads.parameters():
            parameter.fill_(float("nan"))

    with pytest.raises(ModelError, match="diverged"):
        write(model, shard, asked(model, "val"), tmp_path / "out")


# --- nothing leaves ------------------------------------------------------------------------


def imported_by(*programs: str) -> set[str]:
    """Every module of the repository that programs can load, inside functions too."""
    found: set[str] = set()
    waiting = list(programs)
    while waiting:
        name = waiting.pop()
        path = REPOSITORY / f"{name.replace('.', '/')}.py"
        if name in found or not path.is_file():
            continue
        found.add(name)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def test_the_programs_that_send_cannot_load_a_pack_nor_name_its_folder() -> None:
    programs = (
        "client.operations.trainer_process",
        "client.network.connector",
        "client.app",
        "client.operations.supervisor",
    )
    loaded = imported_by(*programs, "client.simulated_site", "client.training.parallel_worker")

    assert {"client.training.trainer", "client.desk.outgoing", "client.guard.what_leaves"} <= loaded
    assert not [name for name in loaded if "audit_pack" in name or name.endswith("auditing")]
    for name in loaded:
        text = (REPOSITORY / f"{name.replace('.', '/')}.py").read_text()
        assert "audit-pack" not in text
        assert PACK_FILE not in text


def test_what_a_site_says_of_itself_names_nothing_of_a_pack(
    shards: dict[str, Path], model: LoadedModel, tmp_path: Path
) -> None:
    home = SiteHome(tmp_path / "site")
    home.trainer.mkdir(parents=True)
    shutil.copytree(shards["valley"], home.shard)
    out = home.trainer / "audit-packs" / "one"
    site = LocalSite(
        name="valley", task="retina", shard=home.shard, state=home.state, num_threads=1
    )
    before = Trainer(site).describe()

    pack = write(model, open_shard(home.shard), asked(model, "val", pictures=2), out)

    after = Trainer(site).describe()
    assert asdict(after) == asdict(before)
    assert not [one.name for one in pack.shown if one.name in str(asdict(after))]


# --- the command ---------------------------------------------------------------------------


@pytest.fixture
def home(
    tmp_path: Path, shards: dict[str, Path], make_config: MakeConfig, model: LoadedModel
) -> SiteHome:
    home, config = SiteHome(tmp_path / "site"), make_config()
    home.trainer.mkdir(parents=True)
    shutil.copytree(shards["valley"], home.shard)
    settings = {
        "name": "hospital",
        "federation": "example",
        "task": "retina",
        "labels": None,
        "data": None,
        "source": config.sites[0].source.model_dump(),
        "preparation": {
            "image_size_px": 64,
            "seed": 7,
            "split": config.data.split.model_dump(),
            "preprocess": model.about("retina").preprocess.model_dump(),
            "duplicates": config.data.duplicates.model_dump(),
        },
        "machine": {"device": "cpu", "processes": 1, "num_threads": 1},
        "limits": {"request_mb": 64, "request_s": 60.0, "min_free_disk_mb": 1},
    }
    site = SiteSettings.model_validate(settings)
    home.site_file.write_text(yaml.safe_dump(site.model_dump(mode="json")))
    write_package(tmp_path / "model", model.network, model.package, model.novelty)
    return home


def command(home: SiteHome, model: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["--home", str(home.root), "audit-pack", str(model), *options])


def test_the_command_works_without_trainer_and_network(
    home: SiteHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket.socket, "bind", no_network)

    options = ("--pictures", "1", "--trust", "none", "--methods", "occlusion")
    done = command(home, tmp_path / "model", *options)

    assert done.exit_code == 0, done.output
    (out,) = (home.trainer / "audit-packs").iterdir()
    assert str(out / "index.html") in done.stdout.replace("\n", "")
    pack = Pack.model_validate_json((out / PACK_FILE).read_bytes())
    assert (pack.site, pack.part, pack.pictures, len(pack.shown)) == ("hospital", "val", 4, 1)
    assert not home.run.exists()
    (entry,) = export(home.audit_log)
    assert (entry["event"], entry["pages"]) == ("audit-pack-written", 1)
    assert entry["package"] == open_package(tmp_path / "model").package.digest
    assert "picture-" not in json.dumps(dict(entry))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_writes_into_the_trainers_folder_as_the_trainers_user(
    home: SiteHome, tmp_path: Path
) -> None:
    with tempfile.TemporaryDirectory(prefix="fovea-") as folder:
        Path(folder).chmod(0o755)
        theirs = SiteHome(Path(folder) / "site")
        shutil.copytree(home.root, theirs.root)
        nobody = pwd.getpwnam("nobody").pw_uid
        for path in (theirs.trainer, *theirs.trainer.rglob("*")):
            os.chown(path, nobody, -1)

        done = command(theirs, tmp_path / "model", "--pictures", "1", "--trust", "none")

        assert done.exit_code == 0, done.output
        (out,) = (theirs.trainer / "audit-packs").iterdir()
        written = (out.parent, out, *out.iterdir())
        assert {path.stat().st_uid for path in written} == {nobody}
        assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {0o700, 0o600}


@pytest.mark.parametrize("place", ["run/pack", "connector", "trainer/shard", "trainer/audit-packs"])
def test_a_pack_is_not_written_where_trainer_or_connector_work(
    home: SiteHome, tmp_path: Path, place: str
) -> None:
    done = command(home, tmp_path / "model", "--out", str(home.root / place))

    assert done.exit_code == 1
    assert "lies among the files" in done.stderr
    assert not (home.root / "run").exists()


def test_a_folder_without_a_model_is_an_error_with_a_remedy(home: SiteHome, tmp_path: Path) -> None:
    done = command(home, tmp_path / "nothing")

    assert done.exit_code == 1
    assert "no model package" in done.stderr


def test_another_model_than_expected_is_refused_before_anything_is_written(
    home: SiteHome, tmp_path: Path
) -> None:
    digest = open_package(tmp_path / "model").package.digest

    done = command(home, tmp_path / "model", "--expect-digest", f"{int(digest, 16) ^ 1:064x}")

    assert done.exit_code == 1
    assert f"the package's digest is {digest}" in " ".join(done.stderr.split())
    assert not (home.trainer / "audit-packs").exists()


def test_the_help_teaches_and_tells_the_exit_codes() -> None:
    told = " ".join(CliRunner().invoke(main, ["audit-pack", "--help"]).stdout.split())

    assert "Exit codes: 0 written" in told
    assert "Nothing is sent" in told
    assert "--home PATH" in told


def test_the_parts_are_those_of_a_sites_shard() -> None:
    assert PARTS == SITE_PARTS
