"""A package is written whole, opened without a configuration, and refused when it is not itself."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit

from common.datasets.transforms import normalise
from common.errors import DataError, ModelError
from common.metrics.novelty import Familiar
from common.model.network import Network
from common.package import writing
from common.package.answers import nonconformities
from common.package.loading import LoadedModel, network_input, open_package
from common.package.schema import MODEL_FILE, NOVELTY_FILE, WEIGHTS_FILE, ModelPackage
from common.package.writing import write_package
from common.tasks import Task

SIDE_PX = 64
Novelties = Mapping[str, Familiar]


@pytest.fixture
def folder(tmp_path: Path, network: Network, package: ModelPackage, novelty: Novelties) -> Path:
    path = tmp_path / "model" / "package"
    write_package(path, network, package, novelty)
    return path


@pytest.fixture
def loaded(folder: Path) -> LoadedModel:
    return open_package(folder)


@pytest.fixture
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn((4, 3, SIDE_PX, SIDE_PX), generator=generator)


def test_an_opened_package_says_what_the_network_said(
    network: Network, loaded: LoadedModel, images: torch.Tensor, tasks: Mapping[str, Task]
) -> None:
    assert not loaded.network.training
    for name in tasks:
        with torch.inference_mode():
            expected = network(images, task=name)
        assert torch.equal(loaded.predict(name, images).output.logits, expected.logits)


def test_what_is_known_of_the_model_comes_back(
    loaded: LoadedModel, package: ModelPackage, novelty: Novelties
) -> None:
    assert loaded.package.tasks == package.tasks
    assert loaded.package.run == "tiny-1"
    assert set(loaded.novelty) == set(novelty)
    assert np.array_equal(loaded.novelty["retina"].whitening, novelty["retina"].whitening)


def test_a_run_s_folder_its_models_and_the_package_open_alike(folder: Path) -> None:
    digests = {
        open_package(place).package.weights_sha256
        for place in (folder, folder.parent, folder.parent.parent)
    }
    assert len(digests) == 1


def test_no_pretrained_weights_are_asked_for(
    tmp_path: Path, network: Network, package: ModelPackage, novelty: Novelties
) -> None:
    """Whatever the run started from, and whatever someone has written into the file since."""
    missing = "weights/of/the/run.safetensors"
    encoder = network.config.encoder.model_copy(update={"pretrained": missing})
    config = network.config.model_copy(update={"encoder": encoder})
    whole = package.model_copy(update={"model": config})
    written = write_package(tmp_path / "p", network, whole, novelty)
    assert written.model.encoder.pretrained is False
    model = json.loads(written.model.model_dump_json())
    model["encoder"]["pretrained"] = missing
    change(tmp_path / "p", model=model)
    open_package(tmp_path / "p")


def test_probabilities_are_cooled_and_sets_follow_their_thresholds(
    loaded: LoadedModel, images: torch.Tensor
) -> None:
    found = loaded.predict("chestx", images)
    logits = found.output.logits.numpy().astype(float)
    # 0.7 is what training's weight moved Mass by, 0 Effusion.
    assert found.probabilities == pytest.approx(expit((logits - [0.0, 0.7]) / 2))
    assert found.uncalibrated == pytest.approx(expit(logits))
    assert found.sets is not None
    for sets, chance in zip(found.sets, expit(logits[:, 0]), strict=True):
        [effusion] = sets  # Mass was left out
        assert effusion.question == "Effusion"
        # absent up to a nonconformity of 0.6, present up to 0.4
        expected = [
            a for a, n, t in (("absent", chance, 0.6), ("present", 1 - chance, 0.4)) if n <= t
        ]
        assert list(effusion.members) == expected
        assert effusion.is_sure == (len(expected) == 1)


def test_a_set_of_grades_has_no_gap(
    loaded: LoadedModel, images: torch.Tensor, tasks: Mapping[str, Task]
) -> None:
    found = loaded.predict("retina", images)
    class_logits = found.output.class_logits.numpy().astype(float)
    assert found.probabilities == pytest.approx(expit((class_logits - [0, 0, 0, 0.7]) / 2))
    labels = tasks["retina"].labels
    scores = nonconformities(found.output.class_logits.numpy(), task=tasks["retina"])[0]
    assert found.sets is not None
    for (grades,), row in zip(found.sets, scores, strict=True):
        inside = np.flatnonzero(row <= 0.85)
        assert grades.members == labels[inside.min() : inside.max() + 1]


def test_a_task_that_is_not_calibrated_promises_nothing(
    loaded: LoadedModel, images: torch.Tensor
) -> None:
    found = loaded.predict("pathoscan", images)
    assert found.sets is None
    assert found.distance is None
    assert found.is_novel is None
    assert np.array_equal(found.probabilities, found.uncalibrated)


def test_novelty_is_judged_by_the_mean_local_token(
    loaded: LoadedModel, images: torch.Tensor, novelty: Novelties
) -> None:
    found = loaded.predict("chestx", images)
    expected = novelty["chestx"].distance(found.output.pooled.numpy())
    assert found.distance == pytest.approx(expected)
    assert found.is_novel is not None
    assert found.is_novel.tolist() == (expected > 1.5).tolist()


def test_a_network_in_training_is_left_in_training(
    loaded: LoadedModel, images: torch.Tensor
) -> None:
    loaded.network.train()
    modes: list[bool] = []
    loaded.network.trunk.register_forward_pre_hook(lambda trunk, _: modes.append(trunk.training))
    loaded.predict("chestx", images)
    assert modes == [False]  # it predicts at rest
    assert loaded.network.training


def test_prepared_pictures_become_what_training_saw() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1)).astype(np.uint8)
    expected = normalise(torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255)
    assert torch.equal(network_input(pictures), expected)
    assert network_input(pictures).shape == (2, 3, 8, 8)


def test_a_task_the_model_has_not_is_named(loaded: LoadedModel, images: torch.Tensor) -> None:
    with pytest.raises(ModelError, match=r"retinaa.*retina"):
        loaded.predict("retinaa", images)


@pytest.mark.parametrize("name", [WEIGHTS_FILE, NOVELTY_FILE])
def test_changed_or_missing_arrays_are_refused(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=f"{name}: its digest is .* copy the package anew"):
        open_package(folder)
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"{name}: cannot be read"):
        open_package(folder)


def change(folder: Path, **values: object) -> None:
    """Change values of a package as whoever means to: with a digest that fits them."""
    content = json.loads((folder / MODEL_FILE).read_text()) | values
    del content["digest"]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    content["digest"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / MODEL_FILE).write_text(json.dumps(content))


def test_another_version_s_file_is_refused(folder: Path) -> None:
    change(folder, format=2)
    with pytest.raises(ModelError, match=r"of another version \(format\)"):
        open_package(folder)
    (folder / MODEL_FILE).write_text("{")
    with pytest.raises(ModelError, match="damaged"):
        open_package(folder)


def test_labels_that_this_version_does_not_know_are_refused(folder: Path) -> None:
    tasks = json.loads((folder / MODEL_FILE).read_text())["tasks"]
    tasks["retina"]["labels"][0] = "0 healthy"
    change(folder, tasks=tasks)
    with pytest.raises(ModelError, match="task retina has the labels 0 healthy"):
        open_package(folder)
    tasks["retina"]["labels"][0] = "0 none"
    tasks["retina"]["concepts"] = ["drusen"]
    change(folder, tasks=tasks)
    with pytest.raises(ModelError, match="task retina has the concepts drusen"):
        open_package(folder)
    tasks = {"chestx": tasks["chestx"] | {"labels": ["Effusio"]}}
    change(folder, tasks=tasks)
    with pytest.raises(ModelError, match="Effusio"):
        open_package(folder)


def test_shifts_of_other_classes_are_refused(folder: Path) -> None:
    tasks = json.loads((folder / MODEL_FILE).read_text())["tasks"]
    del tasks["chestx"]["calibration"]["shift"]["Mass"]
    change(folder, tasks=tasks)
    with pytest.raises(ModelError, match="task chestx has the shifts of Effusion, this"):
        open_package(folder)


def test_a_folder_without_a_package_says_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model package\. Name the folder of a run"):
        open_package(tmp_path)


def test_a_write_that_fails_leaves_the_former_package_and_nothing_else(
    folder: Path,
    network: Network,
    package: ModelPackage,
    novelty: Novelties,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full_disk(path: Path, content: bytes) -> None:
        if path.name == MODEL_FILE:
            raise OSError(28, "No space left on device")
        path.write_bytes(content)

    monkeypatch.setattr(writing, "write_whole", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_package(folder, network, package.model_copy(update={"run": "other"}), novelty)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["package"]


def test_a_new_package_takes_the_former_one_s_place(
    folder: Path, network: Network, package: ModelPackage, novelty: Novelties
) -> None:
    write_package(folder, network, package.model_copy(update={"run": "other"}), novelty)
    assert open_package(folder).package.run == "other"
    assert [path.name for path in folder.parent.iterdir()] == ["package"]


def test_a_folder_with_other_files_is_not_replaced(
    folder: Path, network: Network, package: ModelPackage, novelty: Novelties
) -> None:
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="holds other files"):
        write_package(folder, network, package, novelty)
    assert (folder / "notes.txt").exists()


def test_parts_of_different_models_are_not_packaged_together(
    tmp_path: Path, network: Network, package: ModelPackage, novelty: Novelties
) -> None:
    fewer = package.model_copy(update={"tasks": {"chestx": package.tasks["chestx"]}})
    with pytest.raises(DataError, match="of the same model"):
        write_package(tmp_path / "p", network, fewer, novelty)
    other = package.tasks["chestx"].model_copy(update={"labels": ("Effusion", "Nodule")})
    relabelled = package.model_copy(update={"tasks": package.tasks | {"chestx": other}})
    with pytest.raises(DataError, match="different labels"):
        write_package(tmp_path / "p", network, relabelled, novelty)
    assert list(tmp_path.iterdir()) == []


def test_novelty_that_does_not_fit_itself_is_refused(
    tmp_path: Path, network: Network, package: ModelPackage, novelty: Novelties
) -> None:
    spoilt = replace(novelty["chestx"], mean=novelty["chestx"].mean[:3])
    write_package(tmp_path / "p", network, package, {"chestx": spoilt})
    with pytest.raises(ModelError, match="arrays of task chestx are missing, or do not fit"):
        open_package(tmp_path / "p")


def test_a_set_without_a_threshold_is_refused_when_opened_and_not_when_used(folder: Path) -> None:
    tasks = json.loads((folder / MODEL_FILE).read_text())["tasks"]
    del tasks["retina"]["calibration"]["conformal"]["thresholds"]["3 severe"]
    change(folder, tasks=tasks)
    with pytest.raises(ModelError, match="task retina has no threshold for 3 severe"):
        open_package(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_limit_that_is_no_number_is_refused(folder: Path, value: float) -> None:
    tasks = json.loads((folder / MODEL_FILE).read_text())["tasks"]
    tasks["retina"]["novelty_limit"] = value  # nothing would ever be novel
    change(folder, tasks=tasks)
    with pytest.raises(ModelError, match="damaged or of another version"):
        open_package(folder)
