"""A task whose head nobody has trained together is not offered, and the package says why."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load

from common.errors import DataError, ModelError
from common.metrics.novelty import Familiar
from common.model.network import Network, build_network
from common.package.loading import LoadedModel, open_package
from common.package.onnx_export import export_onnx
from common.package.schema import MODEL_FILE, NOVELTY_FILE, WEIGHTS_FILE, ModelPackage
from common.package.writing import write_package
from common.tasks import Task

WHY = "Its head stays at its sites."


@pytest.fixture(scope="module")
def with_signs(network: Network, tasks: Mapping[str, Task]) -> Network:
    """A network whose configuration names the task that is left out, too."""
    config = network.config.model_copy(
        update={
            "context_labels": {"chestx": ("Mass",), "retina": ("severity",)},
            "concepts": {"chestx": True, "retina": True},
        }
    )
    return build_network(config, tasks, seed=6).eval()


def without_retina(package: ModelPackage) -> ModelPackage:
    tasks = {name: about for name, about in package.tasks.items() if name != "retina"}
    return package.model_copy(update={"tasks": tasks, "left_out": {"retina": WHY}})


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory,
    with_signs: Network,
    package: ModelPackage,
    novelty: Mapping[str, Familiar],
) -> Path:
    path = tmp_path_factory.mktemp("run") / "package"
    known = {"chestx": novelty["chestx"]}
    write_package(path, with_signs, without_retina(package), known)
    return path


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModel:
    return open_package(folder)


def test_the_other_tasks_answer_as_the_whole_network_does(
    loaded: LoadedModel, with_signs: Network
) -> None:
    images = torch.randn((2, 3, 64, 64), generator=torch.Generator().manual_seed(1))
    for task in ("chestx", "pathoscan"):
        with torch.inference_mode():
            expected = with_signs(images, task=task)
        found = loaded.predict(task, images).output
        assert torch.equal(found.logits, expected.logits)
        assert torch.equal(found.concept_logits, expected.concept_logits)


def test_whoever_asks_for_it_is_told_why_it_is_not_there(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    says = rf"does not answer task retina: {WHY}"
    with pytest.raises(ModelError, match=says):
        loaded.task("retina")
    with pytest.raises(ModelError, match=says):
        loaded.about("retina")
    with pytest.raises(ModelError, match=says):
        loaded.predict("retina", torch.zeros((1, 3, 64, 64)))
    with pytest.raises(ModelError, match=says):
        export_onnx(loaded, task="retina", path=tmp_path / "retina.onnx", batch=None)
    assert list(tmp_path.iterdir()) == []


def test_no_other_task_answers_for_it_where_none_is_named(
    loaded: LoadedModel, network: Network, package: ModelPackage
) -> None:
    assert loaded.task_asked_for("pathoscan", how="name one") == "pathoscan"
    one = package.model_copy(update={"tasks": {"chestx": package.tasks["chestx"]}})
    assert LoadedModel(network, one, {}).task_asked_for(None, how="name one") == "chestx"
    left = one.model_copy(update={"left_out": {"retina": WHY}})
    with pytest.raises(ModelError, match=r"tasks chestx, and not retina: Its head.*; name one\."):
        LoadedModel(network, left, {}).task_asked_for("", how="name one")
    with pytest.raises(ModelError, match=r"tasks chestx, pathoscan, and not retina"):
        loaded.task_asked_for(None, how="name one")


def test_nothing_of_it_is_in_the_files(folder: Path) -> None:
    weights = load((folder / WEIGHTS_FILE).read_bytes())
    assert {name.split(".")[1] for name in weights if name.startswith("heads.")} == {
        "chestx",
        "pathoscan",
    }
    assert not any("retina" in name for name in load((folder / NOVELTY_FILE).read_bytes()))
    values = json.loads((folder / MODEL_FILE).read_text())
    assert values.pop("left_out") == {"retina": WHY}
    assert "retina" not in json.dumps(values)


def test_a_task_is_answered_or_left_out_and_not_both_or_neither(
    tmp_path: Path, with_signs: Network, package: ModelPackage
) -> None:
    both = package.model_copy(update={"left_out": {"retina": WHY}})
    with pytest.raises(DataError, match="every task once"):
        write_package(tmp_path / "p", with_signs, both, {})
    neither = without_retina(package).model_copy(update={"left_out": {}})
    with pytest.raises(DataError, match="every task once"):
        write_package(tmp_path / "p", with_signs, neither, {})
    none = package.model_copy(update={"tasks": {}, "left_out": dict.fromkeys(package.tasks, WHY)})
    with pytest.raises(DataError, match="answers no task"):
        write_package(tmp_path / "p", with_signs, none, {})
    assert list(tmp_path.iterdir()) == []


def test_what_is_familiar_of_it_is_not_kept(
    tmp_path: Path, with_signs: Network, package: ModelPackage, novelty: Mapping[str, Familiar]
) -> None:
    with pytest.raises(DataError, match="novelty chestx, retina"):
        write_package(tmp_path / "p", with_signs, without_retina(package), novelty)
