"""A package is an MLflow model: loaded by MLflow alone, without code or pickle in its folder."""

import base64
import json
import os
import shutil
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from common.errors import DataError, ModelError
from common.explanation.schema import Explanation
from common.flavour import model
from common.flavour.model import COLUMNS
from common.flavour.pictures import frame_of, png
from common.package.loading import network_input, open_package
from common.package.schema import FLAVOUR_FILES, MODEL_FILE, NOVELTY_FILE, WEIGHTS_FILE
from common.package.writing import write_package
from server.run.mlflow_flavour import pinned, write_flavour
from small_model import SIDE_PX, small_model


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("run") / "package"
    small = small_model()
    write_package(folder, small.network, small.package, small.novelty)
    write_flavour(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(package: Path):  # noqa: ANN201 - mlflow's PyFuncModel, which has no types
    import mlflow.pyfunc

    return mlflow.pyfunc.load_model(str(package))


def drawn(count: int = 2, side: int = SIDE_PX) -> np.ndarray:
    rng = np.random.default_rng(8)
    return rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_the_folder_holds_weights_and_texts_and_nothing_that_can_run(package: Path) -> None:
    names = {path.name for path in package.iterdir()}
    assert names == {MODEL_FILE, WEIGHTS_FILE, NOVELTY_FILE, *FLAVOUR_FILES}
    about = yaml.safe_load((package / "MLmodel").read_text())
    assert about["flavors"]["python_function"]["code"] is None
    assert about["metadata"]["tasks"] == ["chestx", "retina", "pathoscan"]
    assert str(Path.cwd()) not in (package / "MLmodel").read_text()


def test_probabilities_sets_and_maps_are_those_of_the_package(package: Path, loaded) -> None:  # noqa: ANN001
    pictures = drawn()

    found = loaded.predict(frame_of(pictures), params={"task": "pathoscan"})

    opened = open_package(package)
    expected = opened.predict("pathoscan", network_input(pictures))
    assert list(found.columns) == list(COLUMNS)
    assert list(found["failure"]) == ["", ""]
    labels = opened.task("pathoscan").labels
    for number, row in found.iterrows():
        assert expected.sets is not None
        assert row["probabilities"][labels[1]] == pytest.approx(
            expected.probabilities[number, 0], rel=1e-5
        )
        assert sum(row["probabilities"].values()) == pytest.approx(1)
        assert row["prediction_set"] == list(expected.sets[number][0].members)
        (own,) = row["maps"].values()
        np.testing.assert_allclose(own, expected.output.maps[number, 0].numpy(), atol=1e-5)
        made = Explanation.model_validate_json(row["explanation"])
        assert row["rationale"] == " ".join(sentence.text for sentence in made.rationale)
        assert row["answer"] == made.answer


def test_grades_come_with_a_probability_each(loaded) -> None:  # noqa: ANN001
    (row,) = loaded.predict(frame_of(drawn(1)), params={"task": "retina"}).to_dict("records")
    assert len(row["probabilities"]) == 5
    assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-4)


def test_a_broken_picture_is_reported_and_the_others_go_on(loaded) -> None:  # noqa: ANN001
    frame = frame_of([png(drawn()[0]), b"no picture"])
    frame["name"] = ["ward/../3", "broken"]

    found = loaded.predict(frame, params={"task": "chestx"})

    assert list(found["name"]) == ["ward/../3", "broken"]
    assert found["failure"][0] == ""
    assert "broken: cannot be read" in found["failure"][1]
    assert "fovea-" not in found["failure"][1]
    assert pd.isna(found["answer"][1])


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (ValueError("invalid literal for int(): 'Smith^John'"), "broke down (ValueError"),
        (ModelError("the model's numbers are not finite."), "numbers are not finite"),
    ],
)
def test_whatever_is_raised_for_a_picture_is_its_row_without_a_librarys_words(
    loaded,  # noqa: ANN001
    monkeypatch: pytest.MonkeyPatch,
    raised: Exception,
    said: str,
) -> None:
    whole = model.explain_picture

    def fails(*args: object, **keys: object) -> Explanation:
        if args[1].name == "bad":  # type: ignore[attr-defined]
            raise raised
        return whole(*args, **keys)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "explain_picture", fails)
    frame = frame_of(drawn())
    frame["name"] = ["bad", "good"]

    found = loaded.predict(frame, params={"task": "pathoscan"})

    assert said in found["failure"][0]
    assert "Smith" not in found["failure"][0]
    assert found["failure"][1] == ""
    assert isinstance(found["answer"][1], str)


def test_a_lack_of_memory_ends_a_prediction(loaded, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN001
    def fails(*_args: object, **_keys: object) -> Explanation:
        raise MemoryError

    monkeypatch.setattr(model, "explain_picture", fails)
    with pytest.raises(MemoryError):
        loaded.predict(frame_of(drawn(1)), params={"task": "pathoscan"})


def test_further_methods_are_in_the_json_when_asked_for(loaded) -> None:  # noqa: ANN001
    params = {"task": "pathoscan", "methods": "grad-cam"}
    (row,) = loaded.predict(frame_of(drawn(1)), params=params).to_dict("records")
    methods = json.loads(row["explanation"])["findings"][0]["methods"]
    assert [method["name"] for method in methods] == ["evidence", "grad-cam"]
    with pytest.raises(ModelError, match="explanation method"):
        loaded.predict(frame_of(drawn(1)), params={"task": "pathoscan", "methods": "guess"})


def test_a_model_of_several_tasks_wants_one_named(loaded) -> None:  # noqa: ANN001
    with pytest.raises(ModelError, match=r"params=\{'task': 'chestx'\}"):
        loaded.predict(frame_of(drawn(1)))
    with pytest.raises(ModelError, match="task of this model"):
        loaded.predict(frame_of(drawn(1)), params={"task": "skin"})


def test_the_input_example_can_be_predicted_and_served(package: Path, loaded) -> None:  # noqa: ANN001
    (row,) = loaded.predict(loaded.input_example, params={"task": "chestx"}).to_dict("records")
    assert row["failure"] == ""
    served = json.loads((package / "serving_input_example.json").read_text())
    assert served["params"] == {"task": "chestx"}
    ((content,),) = served["dataframe_split"]["data"]
    assert base64.b64decode(content).startswith(b"\x89PNG")


def test_mlflow_refuses_a_table_without_pictures(loaded) -> None:  # noqa: ANN001
    with pytest.raises(Exception, match="Model is missing inputs"):
        loaded.predict(pd.DataFrame({"picture": [b""]}))


def test_the_environment_is_what_fovea_needs_without_fovea_itself(package: Path) -> None:
    pins = (package / "requirements.txt").read_text().splitlines()
    assert pins == pinned()
    # A package index may hold a stranger's of that name.
    assert not any(pin.lower().startswith("fovea") for pin in pins)
    assert "torch==2.13.0" in pins
    assert not any(pin.startswith(("pytest", "ruff")) for pin in pins)
    assert all("==" in pin for pin in pins)


def test_a_package_is_written_anew_over_an_mlflow_model(package: Path, tmp_path: Path) -> None:
    folder, small = tmp_path / "package", small_model()
    write_package(folder, small.network, small.package, small.novelty)
    for name in FLAVOUR_FILES:
        (folder / name).write_text("stale")

    write_package(folder, small.network, small.package, small.novelty)
    assert {path.name for path in folder.iterdir()} == {MODEL_FILE, WEIGHTS_FILE, NOVELTY_FILE}
    assert package.exists()


def test_a_copy_of_the_folder_is_loaded_by_another_process(package: Path, tmp_path: Path) -> None:
    copy, picture = tmp_path / "copy", tmp_path / "picture.png"
    shutil.copytree(package, copy)
    Image.fromarray(drawn()[0]).save(picture)
    script = (
        "import mlflow\n"
        f"model = mlflow.pyfunc.load_model({str(copy)!r})\n"
        "from common.flavour.pictures import frame_of\n"
        f"found = model.predict(frame_of([{str(picture)!r}]), params={{'task': 'chestx'}})\n"
        "print(found['name'][0], sorted(found['maps'][0]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, cwd=tmp_path, check=False,
        env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "picture.png ['Effusion', 'Mass', 'Nodule']"
    assert "mismatch" not in done.stderr  # of the versions that requirements.txt pins


def test_pictures_of_other_forms_are_refused() -> None:
    with pytest.raises(DataError, match="of type uint8"):
        frame_of([np.zeros((8, 8, 3), np.float32)])  # type: ignore[list-item]
    with pytest.raises(DataError, match=r"\(8, 8, 4\)"):
        frame_of([np.zeros((8, 8, 4), np.uint8)])
    with pytest.raises(DataError, match="a list of one"):
        frame_of("picture.png")
    with pytest.raises(DataError, match="cannot be read"):
        frame_of(["nowhere.png"])
    assert list(frame_of([]).columns) == ["image", "name"]


def test_pixels_are_kept_to_the_last_bit() -> None:
    grey = drawn(1)[0, :, :, :1]
    frame = frame_of([grey])
    with Image.open(BytesIO(frame["image"][0])) as read:
        np.testing.assert_array_equal(np.asarray(read), grey[:, :, 0])
