"""What hospitals really hold: broken files, absent classes, empty tables, a site that fails."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.config.reading import load_config
from common.errors import DataError
from server.planning.preparation import Shards, prepare_shards
from server.record.summary import Summary

CONFIGS = Path(__file__).parents[2] / "configs"
SIDE_PX = 64
COLUMNS = (
    "{image: image, labels: labels, patient: patient, site: null, roi_mask: mask, "
    "roi_boxes: null, roi_kind: kind, official_split: null}"
)
PHANTOM = (
    "{kind: phantom, patients: 10, pictures_per_patient: 1, scanner_strength: 0.5, "
    "lesion_contrast: 1.5, roi_fraction: 0.5, marker_agreement: null, prevalence: null}"
)


def manifest(table: str, columns: str = COLUMNS) -> str:
    return (
        f"{{kind: manifest, table: {table}, images: pictures, columns: {columns}, where: {{}}, "
        "label_separator: '|', mapping: labels/nih.yaml}"
    )


def write_pictures(data: Path, *names: str) -> None:
    (data / "pictures").mkdir(parents=True, exist_ok=True)
    for name in names:
        rng = np.random.default_rng(list(name.encode()))
        pixels = rng.integers(0, 256, (SIDE_PX, SIDE_PX), dtype=np.uint8)
        Image.fromarray(pixels).save(data / "pictures" / name)


def write_table(path: Path, rows: Sequence[str]) -> None:
    lines = ["image,labels,patient,kind,mask", *rows]
    path.write_text("\n".join(lines) + "\n")


def good_rows(letter: str, number: int, *, labels: Sequence[str]) -> list[str]:
    names = [f"{letter}{row}" for row in range(number)]
    return [f"{n}.png,{labels[row % len(labels)]},{n},none," for row, n in enumerate(names)]


def settings(sites: dict[str, str], reference: str) -> list[str]:
    listed = ", ".join(
        f"{{name: {name}, task: chestx, source: {source}}}" for name, source in sites.items()
    )
    values = [
        "tasks={chestx: {labels: [Effusion, Mass, Nodule]}}",
        "model.context_labels={chestx: []}",
        f"data.image_size_px={SIDE_PX}",
        f"model.image_size_px={SIDE_PX}",
        f"sites=[{listed}]",
        f"reference={{chestx: {{source: {reference}}}}}",
        "train.epochs=1",
        "train.batch_size=4",
        "federation.rounds=1",
        "evaluation.bootstrap_replicates=100",
        "evaluation.overlays_per_task=1",
        "evaluation.method_pictures=0",
        "evaluation.method_pictures=0",
    ]
    return [part for value in values for part in ("--set", value)]


DEMO = CONFIGS / "experiments" / "demo.yaml"


def prepare(tmp_path: Path, site: str, *, reference: str = PHANTOM) -> Shards:
    loaded = load_config(DEMO, settings({"north": site}, reference)[1::2])
    return prepare_shards(loaded, data_root=tmp_path, out=tmp_path / "out", watch=lambda *_: None)


# Before a run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_pictures(tmp_path, *(f"a{row}.png" for row in range(6)))
    write_table(tmp_path / "good.csv", good_rows("a", 6, labels=["Mass", "Effusion"]))
    return tmp_path


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("a0.png,Scoliosis,1,none,", "1 unknown label.* 'Scoliosis' is in no section of the label"),
        ("a0.png,,1,none,", "1 no label.* an empty cell gives no label"),
        ("gone.png,Mass,1,none,", r"1 missing picture.* no file 'gone\.png' in .*/pictures"),
        ("a0.png,Mass,1,lesion_mask,gone.png", r"1 missing mask.* no file 'gone\.png' beside"),
        ("a0.png,Mass|No Finding,1,none,", "1 contradictory labels"),
    ],
)
def test_shard_that_would_be_empty_names_site_table_row_and_reason(
    data: Path, row: str, why: str
) -> None:
    write_table(data / "bad.csv", [row])
    expected = rf"^north: .*bad\.csv: no picture can be used \({why}"
    with pytest.raises(DataError, match=expected) as raised:
        prepare(data, manifest("bad.csv"))
    assert "First: bad.csv row 2: " in str(raised.value)


def test_empty_table_names_site_and_table(data: Path) -> None:
    write_table(data / "bad.csv", [])
    with pytest.raises(DataError, match=r"^north: .*bad\.csv: .*\(the table is empty\)"):
        prepare(data, manifest("bad.csv"))


def test_shard_of_nothing_but_corrupt_pictures_names_site_row_and_file(data: Path) -> None:
    for row in range(6):
        picture = data / f"pictures/a{row}.png"
        picture.write_bytes(picture.read_bytes()[:200])
    expected = r"^north: no picture can be used \(6 picture or mask.*good\.csv row 2: .*a0\.png"
    with pytest.raises(DataError, match=expected):
        prepare(data, manifest("good.csv"))
    assert not (data / "out/shards/north").exists()


def test_wrong_column_names_site_table_and_the_nearest(data: Path) -> None:
    columns = COLUMNS.replace("labels: labels", "labels: label")
    with pytest.raises(DataError, match=r"^north: .*good\.csv: .*Did you mean 'labels'\?"):
        prepare(data, manifest("good.csv", columns))


def test_missing_mask_is_counted_and_the_rest_is_used(data: Path) -> None:
    rows = good_rows("a", 5, labels=["Mass", "Effusion"])
    write_table(data / "bad.csv", [*rows, "a5.png,Mass,9,lesion_mask,gone.png"])
    card = prepare(data, manifest("bad.csv")).sites["north"].card
    assert (card.pictures, card.exclusions) == (5, {"missing mask": 1})


def test_reference_that_shares_a_patient_with_a_site_is_refused(data: Path) -> None:
    with pytest.raises(DataError, match=r"reference-chestx and north share a patient\."):
        prepare(data, manifest("good.csv"), reference=manifest("good.csv"))


def test_reference_that_shares_a_picture_without_patient_with_a_site_is_refused(data: Path) -> None:
    unnamed = manifest("good.csv", COLUMNS.replace("patient: patient", "patient: null"))
    with pytest.raises(DataError, match=r"reference-chestx and north share a picture\."):
        prepare(data, unnamed, reference=unnamed)


# A whole run with all of it at once


@dataclass(frozen=True)
class Ran:
    """What the command left behind."""

    exit_code: int
    stdout: str
    stderr: str
    out: Path
    summary: Summary


def simulate(data: Path, out: Path, sites: dict[str, str], reference: str) -> Ran:
    program = [sys.executable, "-c", "from server.cli import main; main()"]
    places = ["--data", str(data), "--out", str(out), "--json"]
    command = [*program, "simulate", str(DEMO), *places, *settings(sites, reference)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    path = out / "summary.json"
    assert path.is_file(), done.stderr
    summary = Summary.model_validate_json(path.read_bytes())
    return Ran(done.returncode, done.stdout, done.stderr, out, summary)


def block(out: Path, site: str) -> None:
    (out / "sites").mkdir(parents=True)
    (out / "sites" / site).write_text("a file where the site's folder should be")


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Run north with broken files and without a class, harbour that fails, a reference that
    lacks the class as well and has no outlines."""
    data, out = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("out")
    known = ["Mass", "Effusion", "No Finding", "Mass|Effusion"]
    for letter, table in (("n", "north.csv"), ("r", "reference.csv")):
        write_pictures(data, *(f"{letter}{row}.png" for row in range(12)))
        write_table(data / table, good_rows(letter, 12, labels=known))
    whole = (data / "pictures/n0.png").read_bytes()
    (data / "pictures/n0.png").write_bytes(whole[:300])
    (data / "pictures/n1.png").write_bytes(b"")
    shutil.copy(data / "north.csv", data / "pictures/n2.png")
    block(out, "harbour")
    sites = {"north": manifest("north.csv"), "harbour": PHANTOM}
    return simulate(data, out, sites, manifest("reference.csv"))


def test_site_without_a_ledger_takes_no_part_and_the_verdict_is_partial(ran: Ran) -> None:
    """What leaves is written down first: where that cannot be done, not even a data card leaves."""
    assert ran.exit_code == 3
    assert ran.summary.verdict == "PARTIAL"
    # Ten pictures in one round teach little: the model may be no better for it, and not packaged.
    (reason,) = [r for r in ran.summary.reasons if not r.startswith("the model was not packaged: ")]
    assert reason.startswith("site harbour refused in round 1: its ledger cannot be used")
    outcomes = {site.site: site.outcome for site in ran.summary.rounds[1].sites}
    assert outcomes == {"north": "answered", "harbour": "refused"}
    assert "harbour" in ran.stderr


def test_nothing_but_the_summary_is_printed_as_json(ran: Ran) -> None:
    assert json.loads(ran.stdout) == json.loads((ran.out / "summary.json").read_bytes())


def test_corrupt_pictures_are_counted_on_the_card_and_named_only_at_the_site(ran: Ran) -> None:
    card = (ran.out / "data_cards/north.json").read_text()
    assert json.loads(card)["exclusions"] == {"picture or mask cannot be used": 3}
    assert ".png" not in card
    with (ran.out / "shards/north/exclusions.csv").open(newline="") as stream:
        details = [row["detail"] for row in csv.DictReader(stream)]
    assert [detail[:15] for detail in details] == [f"north.csv row {row}" for row in (2, 3, 4)]
    problems = ("n0.png: cannot be read as", "n1.png: the file is empty", "n2.png: cannot be read")
    for detail, problem in zip(details, problems, strict=True):
        assert problem in detail


def test_class_that_a_site_lacks_is_noted_on_its_card(ran: Ran) -> None:
    notes = json.loads((ran.out / "data_cards/north.json").read_text())["notes"]
    assert "class Nodule is absent" in notes


def test_class_that_the_reference_lacks_has_no_number_and_says_so(ran: Ran) -> None:
    per_class = ran.summary.rounds[1].central["chestx"].classification.per_class
    lacking, present = per_class["Nodule"]["auroc"], per_class["Mass"]["auroc"]
    assert (lacking.value, lacking.positives) == (None, 0)
    assert lacking.note.startswith("not defined")
    assert present.value is not None


def test_reference_without_outlines_has_no_localisation_and_says_so(ran: Ran) -> None:
    localisation = ran.summary.rounds[1].central["chestx"].localisation
    assert localisation.average["pointing_hit"].value is None
    assert localisation.average["pointing_hit"].note.startswith("not defined")


@pytest.mark.slow
def test_run_without_any_update_is_failed_and_exits_with_4(tmp_path: Path) -> None:
    block(tmp_path / "out", "north")
    failed = simulate(tmp_path, tmp_path / "out", {"north": PHANTOM}, PHANTOM)
    assert failed.exit_code == 4
    assert failed.summary.verdict == "FAILED"
    assert "Absent: north: its ledger cannot be used" in failed.summary.reasons[0]
