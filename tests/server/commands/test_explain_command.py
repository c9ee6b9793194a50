"""``fovea explain``: pages and JSON for files and folders; a bad file is named, the rest go on."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from common.explanation.files import read_explanation
from common.explanation.rationale import rationale
from common.package.writing import write_package
from server.cli import main
from small_model import small_model


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of an untrained model on disk."""
    folder = tmp_path_factory.mktemp("run") / "package"
    model = small_model()
    write_package(folder, model.network, model.package, model.novelty)
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two good pictures of one name, one that is none, and a text that is left alone."""
    folder = tmp_path / "pictures"
    for number, place in enumerate(("a.png", "deep/a.png")):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        save_noise(folder / place, seed=number)
    (folder / "broken.png").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def save_noise(path: Path, *, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (80, 80), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def save_dicom(path: Path) -> None:
    """A small chest radiograph as a scanner writes it, without a suffix."""
    pixels = np.random.default_rng(3).integers(0, 4096, (80, 80), dtype=np.uint16)
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    file.SOPClassUID, file.SOPInstanceUID = ComputedRadiographyImageStorage, "1.2.3"
    file.Rows, file.Columns = pixels.shape
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 12, 11, 0
    file.PixelData = pixels.tobytes()
    file.save_as(path, enforce_file_format=True)


def explain(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["explain", *map(str, arguments)])


def test_a_folder_gives_pages_an_index_and_the_name_of_what_failed(
    package: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    done = explain(package, pictures, "--task", "chestx", "--out", out, "--trust", "none")

    assert done.exit_code == 3, done.output
    assert sorted(path.name for path in out.iterdir()) == [
        "a-2.html", "a-2.json", "a.html", "a.json", "index.html"
    ]  # fmt: skip
    assert "broken.png" in done.stderr
    assert "cannot be read" in done.stderr
    assert "broken.png" not in done.stdout
    index = (out / "index.html").read_text()
    assert all(name in index for name in ("a.html", "a-2.html", "broken.png"))
    assert "notes.txt" not in index


def test_the_json_beside_a_page_is_the_whole_explanation(
    package: Path, pictures: Path, tmp_path: Path
) -> None:
    done = explain(
        package, pictures / "a.png", "--task", "retina", "--out", tmp_path / "out",
        "--methods", "occlusion", "--trust", "none",
    )  # fmt: skip

    assert done.exit_code == 0, done.output
    made = read_explanation(tmp_path / "out" / "a.json")
    assert made.task == "retina"
    assert made.rationale == rationale(made)
    assert [method.name for method in made.findings[0].methods][:1] == ["evidence"]
    assert any(len(finding.methods) == 2 for finding in made.findings)
    assert not (tmp_path / "out" / "index.html").exists()
    assert made.answer in done.stdout
    assert "a.html" in done.stdout


def test_a_folder_s_maps_are_held_against_as_many_random_orders_as_asked_for(
    package: Path, pictures: Path, tmp_path: Path
) -> None:
    done = explain(
        package, pictures, "--task", "pathoscan", "--out", tmp_path / "out", "--random-orders", 2
    )

    assert done.exit_code == 3, done.output
    own = read_explanation(tmp_path / "out" / "a.json").findings[0].methods[0]
    assert own.faithfulness is not None
    assert len(own.faithfulness.random_areas) == 2
    assert own.stability is not None
    assert len(own.stability.other_pictures) == 1  # the third file is no picture
    refused = explain(package, pictures, "--task", "pathoscan", "--random-orders", 1)
    assert refused.exit_code == 2


def test_dicom_and_an_experts_region_are_taken(package: Path, tmp_path: Path) -> None:
    save_dicom(tmp_path / "IM0001")
    mask = np.zeros((80, 80), dtype=np.uint8)
    mask[:40] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")

    done = explain(
        package, tmp_path / "IM0001", "--task", "chestx", "--out", tmp_path / "out",
        "--regions", tmp_path / "mask.png", "--trust", "none",
    )  # fmt: skip

    assert done.exit_code == 0, done.output
    made = read_explanation(tmp_path / "out" / "IM0001.json")
    assert made.roi is not None
    assert sum(made.roi.coverage) == pytest.approx(len(made.roi.coverage) / 2)
    assert made.findings[0].methods[0].energy_in_roi is not None


def test_a_summary_for_machines_is_all_that_is_printed(
    package: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    done = explain(
        package, pictures, "--task", "pathoscan", "--out", out, "--trust", "none", "--json"
    )

    summary = json.loads(done.stdout)
    assert done.exit_code == 3
    assert summary["index"] == str(out / "index.html")
    first, failed, _ = summary["pictures"]
    assert first["failure"] is None
    assert json.loads(Path(first["json"]).read_text())["answer"] == first["answer"]
    assert 0 < first["probabilities"]["malignant"] < 1
    assert failed["page"] is None
    assert "broken.png" in failed["failure"]


def test_it_is_an_error_when_none_could_be_explained(
    package: Path, pictures: Path, tmp_path: Path
) -> None:
    done = explain(package, pictures / "broken.png", "--task", "chestx", "--out", tmp_path / "out")

    assert done.exit_code == 1
    assert done.stderr.count("broken.png: ") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name one with --task"),
        (("--task", "chest"), "Did you mean 'chestx'"),
        (("--task", "chestx", "--methods", "grad_cam"), "Did you mean 'grad-cam'"),
        (("--task", "chestx", "--findings", "Mas"), "Did you mean 'Mass'"),
    ],
)
def test_what_is_asked_wrongly_is_said_before_anything_is_written(
    package: Path, pictures: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    done = explain(package, pictures, "--out", tmp_path / "out", *arguments)

    assert done.exit_code == 1
    assert words in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_model_is_named(pictures: Path, tmp_path: Path) -> None:
    done = explain(tmp_path, pictures, "--task", "chestx")

    assert done.exit_code == 1
    assert "no model package" in done.stderr


def test_no_file_name_is_logged(
    package: Path, pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)

    explain(package, pictures, "--task", "chestx", "--out", tmp_path / "out", "--trust", "none")

    assert not any("broken" in record.getMessage() for record in caplog.records)
