"""One task as an ONNX file: the same numbers as torch, and it says what it is of."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

from common.errors import ModelError
from common.package import onnx_export
from common.package.loading import LoadedModel, network_input, open_package
from common.package.onnx_export import OUTPUTS, TOLERANCE, difference, export_onnx
from common.package.onnx_model import OnnxModel, open_onnx
from common.package.writing import write_package
from server.cli import main
from small_model import SIDE_PX, TEMPERATURE, small_model


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    torch.set_num_threads(1)
    return small_model(is_weighted=True)


@pytest.fixture(scope="module")
def file(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Findings, grey pictures, any number of them."""
    path = tmp_path_factory.mktemp("onnx") / "deep" / "chestx.onnx"
    export_onnx(model, task="chestx", path=path)
    return path


@pytest.fixture(scope="module")
def exported(file: Path) -> OnnxModel:
    return open_onnx(file, threads=1)


def drawn(count: int, channels: int, *, seed: int = 3) -> np.ndarray:
    shape = (count, SIDE_PX, SIDE_PX, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("count", [1, 3])
def test_every_output_is_the_networks_for_any_number_of_pictures(
    model: LoadedModel, exported: OnnxModel, count: int
) -> None:
    pictures = drawn(count, 1)

    found = exported.run(pictures)

    expected = model.predict("chestx", network_input(pictures)).output
    assert set(found) == {*OUTPUTS, "concept_logits", "concept_maps"}
    for name, values in found.items():
        ours = getattr(expected, name).numpy()
        assert values.shape == ours.shape
        assert np.abs(values - ours).max() <= TOLERANCE * np.abs(ours).max(), name


def test_maps_of_the_file_add_up_to_its_logits(exported: OnnxModel) -> None:
    found = exported.run(drawn(2, 1))

    sums = found["maps"].sum(axis=(2, 3)) + found["context"]
    np.testing.assert_allclose(sums, found["logits"], rtol=1e-4, atol=1e-5)


def test_calibrated_probabilities_follow_from_the_file_alone(
    model: LoadedModel, exported: OnnxModel
) -> None:
    pictures = drawn(2, 1)
    about = exported.about
    assert about.shift is not None
    assert about.temperature is not None
    assert any(about.shift)

    logits = exported.run(pictures)["class_logits"].astype(np.float64)
    found = 1 / (1 + np.exp(-(logits - np.array(about.shift)) / about.temperature))

    expected = model.predict("chestx", network_input(pictures)).probabilities
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_file_says_what_it_is_of(model: LoadedModel, exported: OnnxModel, file: Path) -> None:
    about = exported.about
    assert (about.run, about.round, about.task) == ("small", 3, "chestx")
    assert about.weights_sha256 == model.package.weights_sha256
    assert about.package_digest == model.package.digest
    assert about.labels == model.task("chestx").labels
    assert about.concepts == model.task("chestx").concepts
    assert about.preprocess == model.about("chestx").preprocess
    assert (about.size_px, about.channels, about.temperature) == (SIDE_PX, 1, TEMPERATURE)
    properties = {p.key: p.value for p in onnx.load(file).metadata_props}
    assert properties["run"] == "small"
    assert json.loads(properties["labels"]) == list(about.labels)


def test_the_file_tells_nothing_of_the_machine_it_was_made_on(file: Path) -> None:
    content = file.read_bytes()
    assert b"/site-packages/" not in content
    assert str(Path.cwd()).encode() not in content


def test_pictures_that_do_not_fit_are_refused(exported: OnnxModel) -> None:
    for wrong in (
        drawn(1, 3),
        drawn(1, 1)[0],
        drawn(1, 1)[:, :32],
        drawn(1, 1).astype(np.float32),
    ):
        with pytest.raises(ModelError, match=r"takes any number of pictures \(…, 64, 64, 1\)"):
            exported.run(wrong)


def test_running_a_file_needs_no_torch(file: Path) -> None:
    script = (
        "import sys, numpy, pathlib\n"
        "from common.package.onnx_model import open_onnx\n"
        f"model = open_onnx(pathlib.Path({str(file)!r}), threads=1)\n"
        f"found = model.run(numpy.zeros((1, {SIDE_PX}, {SIDE_PX}, 1), numpy.uint8))\n"
        "assert found['logits'].shape == (1, 3), found\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=os.environ, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_file_of_one_picture_of_grades_takes_exactly_one(
    model: LoadedModel, tmp_path: Path
) -> None:
    folder, path = tmp_path / "package", tmp_path / "retina.onnx"
    write_package(folder, model.network, model.package, model.novelty)

    done = CliRunner().invoke(
        main,
        ["export", str(folder), "--task", "retina", "--out", str(path), "--batch", "1"],
    )

    assert done.exit_code == 0, done.output
    exported = open_onnx(path, threads=1)
    found = exported.run(drawn(1, 3))
    expected = model.predict("retina", network_input(drawn(1, 3))).output.class_logits.numpy()
    np.testing.assert_allclose(found["class_logits"], expected, rtol=1e-4, atol=1e-5)
    assert exported.about.class_names == model.task("retina").class_names
    assert exported.about.package_digest == open_package(folder).package.digest != ""
    with pytest.raises(ModelError, match="exactly 1 pictures"):
        exported.run(drawn(2, 3))


def test_a_file_that_differs_from_the_network_is_not_written(
    model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    content = file.read_bytes()
    # The file of another network in the place of this one's.
    monkeypatch.setattr(onnx_export, "_content", lambda *_args, **_keys: content)
    other = replace(model, network=small_model().network)
    with torch.no_grad():
        next(other.network.heads["chestx"].parameters()).mul_(1.01)

    with pytest.raises(ModelError, match="differ from the network's"):
        export_onnx(other, task="chestx", path=tmp_path / "wrong.onnx")
    assert not (tmp_path / "wrong.onnx").exists()


def test_difference_is_relative_and_never_hides_a_missing_number() -> None:
    ours = torch.tensor([[100.0, -1.0]])
    assert difference(ours, np.array([[100.0, -2.0]])) == pytest.approx(0.01)
    assert difference(ours, np.array([[100.0, np.nan]])) == float("inf")
    assert difference(ours, np.array([100.0, -1.0])) == float("inf")
    assert difference(torch.zeros(2), np.zeros(2)) == 0.0


def test_what_cannot_be_exported_is_refused(model: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="task of this model"):
        export_onnx(model, task="skin", path=tmp_path / "a.onnx")
    with pytest.raises(ModelError, match="at least one picture"):
        export_onnx(model, task="chestx", path=tmp_path / "a.onnx", batch=0)


def test_a_task_must_be_named_where_there_are_several(model: LoadedModel, tmp_path: Path) -> None:
    write_package(tmp_path / "package", model.network, model.package, model.novelty)
    done = CliRunner().invoke(
        main, ["export", str(tmp_path / "package"), "--out", str(tmp_path / "a.onnx")]
    )
    assert done.exit_code == 1
    assert "name one with --task" in done.output


def test_another_package_than_expected_is_not_exported(model: LoadedModel, tmp_path: Path) -> None:
    folder, path = tmp_path / "package", tmp_path / "a.onnx"
    write_package(folder, model.network, model.package, model.novelty)
    asked = ["export", str(folder), "--task", "chestx", "--out", str(path)]
    done = CliRunner().invoke(main, [*asked, "--expect-digest", "0" * 64])
    assert done.exit_code == 1
    assert "expected was 000" in " ".join(done.output.split())
    assert not path.exists()


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    with pytest.raises(ModelError, match="cannot be read"):
        open_onnx(path)
    path.write_bytes(b"no model")
    with pytest.raises(ModelError, match="no ONNX file that can be run here"):
        open_onnx(path)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "foreign",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])],
    )
    opsets = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    with pytest.raises(ModelError, match="not exported by this version"):
        open_onnx(path)
