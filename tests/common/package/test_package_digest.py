"""A package's digest is over all its files, and a changed value is noticed when it is opened."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from common.errors import ModelError
from common.metrics.novelty import Familiar
from common.model.network import Network
from common.package.digest import package_digest
from common.package.loading import open_package
from common.package.schema import (
    FLAVOUR_FILES,
    MODEL_FILE,
    NOVELTY_FILE,
    WEIGHTS_FILE,
    ModelPackage,
)
from common.package.writing import write_package

Values = dict[str, Any]


@pytest.fixture
def folder(
    tmp_path: Path, network: Network, package: ModelPackage, novelty: Mapping[str, Familiar]
) -> Path:
    write_package(tmp_path / "package", network, package, novelty)
    return tmp_path / "package"


def written(folder: Path) -> Values:
    values: Values = json.loads((folder / MODEL_FILE).read_text())
    return values


def test_the_digest_is_the_sha256_of_all_other_values_which_name_the_array_files(
    folder: Path,
) -> None:
    values = written(folder)
    digest = values.pop("digest")
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    assert digest == hashlib.sha256(text.encode()).hexdigest()
    for field, name in (("weights_sha256", WEIGHTS_FILE), ("novelty_sha256", NOVELTY_FILE)):
        assert values[field] == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert open_package(folder).package.digest == digest


def cooler(values: Values) -> None:
    values["tasks"]["retina"]["calibration"]["temperature"] = 1.0


def surer(values: Values) -> None:
    values["tasks"]["chestx"]["calibration"]["conformal"]["thresholds"]["Effusion: present"] = 0.1


def less_novel(values: Values) -> None:
    values["tasks"]["chestx"]["novelty_limit"] = 1e9


def other_preparation(values: Values) -> None:
    values["tasks"]["retina"]["preprocess"]["crop_dark_border"] = True


def other_origin(values: Values) -> None:
    values["run"] = "other"


def no_digest(values: Values) -> None:
    del values["digest"]


@pytest.mark.parametrize(
    "change", [cooler, surer, less_novel, other_preparation, other_origin, no_digest]
)
def test_a_value_that_was_changed_is_noticed(
    folder: Path, change: Callable[[Values], None]
) -> None:
    values = written(folder)
    change(values)
    (folder / MODEL_FILE).write_text(json.dumps(values))
    with pytest.raises(
        ModelError,
        match=r"model\.json: the package's digest by what the file says is .{12}…, the file "
        r"names (.{12}…|none)\. .* copy the package anew",
    ):
        open_package(folder)


def test_a_key_that_stands_twice_is_refused(folder: Path) -> None:
    """Whoever computes the digest might read one value, whoever uses the file the other."""
    text = (folder / MODEL_FILE).read_text()
    assert '"round": 3' in text
    (folder / MODEL_FILE).write_text(text.replace('"round": 3', '"round": 9, "round": 3', 1))
    with pytest.raises(ModelError, match="a key stands twice"):
        open_package(folder)


def test_layout_and_mlflow_s_files_do_not_count(folder: Path) -> None:
    digest = open_package(folder).package.digest
    values = dict(reversed(written(folder).items()))
    (folder / MODEL_FILE).write_text(json.dumps(values, indent=4) + "\n\n")
    for name in FLAVOUR_FILES:
        (folder / name).write_text("rewritten by MLflow")
    assert open_package(folder).package.digest == digest


def test_another_package_than_expected_is_refused(
    folder: Path,
    tmp_path: Path,
    network: Network,
    package: ModelPackage,
    novelty: Mapping[str, Familiar],
) -> None:
    digest = open_package(folder).package.digest
    assert open_package(folder, expected_digest=digest.upper()).package.digest == digest
    # Changed on purpose, with a digest that fits: only who noted the former one can tell.
    about = package.tasks["retina"]
    assert about.calibration is not None
    sure = about.calibration.model_copy(update={"temperature": 0.1})
    tasks = package.tasks | {"retina": about.model_copy(update={"calibration": sure})}
    changed = package.model_copy(update={"tasks": tasks})
    write_package(tmp_path / "changed", network, changed, novelty)
    open_package(tmp_path / "changed")
    with pytest.raises(ModelError, match=rf"expected was {digest}.*whose summary\.json"):
        open_package(tmp_path / "changed", expected_digest=digest)
    with pytest.raises(ModelError, match="expected was"):
        open_package(folder, expected_digest=digest[:12])


@pytest.mark.parametrize("content", [b"[]", b"{", b'{"a": NaN}', b'{"a": 1, "a": 1}'])
def test_what_is_no_model_file_has_no_digest(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        package_digest(content)


def test_numbers_keep_their_digest_on_their_way_through_a_reader(folder: Path) -> None:
    text = (folder / MODEL_FILE).read_text()
    again = json.dumps(json.loads(text))
    assert package_digest(again.encode()) == package_digest(text.encode())
    values = written(folder)
    values["tasks"]["chestx"]["novelty_limit"] = math.nextafter(1.5, 2)
    assert package_digest(json.dumps(values).encode()) != package_digest(text.encode())
