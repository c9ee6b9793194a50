"""Files of a package that somebody wrote on purpose: refused in words that name the file."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save
from safetensors.torch import save as save_tensors

from common.errors import ModelError
from common.metrics.novelty import Familiar
from common.model.network import Network
from common.package.digest import package_digest
from common.package.loading import open_package
from common.package.schema import MODEL_FILE, NOVELTY_FILE, WEIGHTS_FILE, ModelPackage
from common.package.writing import write_package

Values = dict[str, Any]
Arrays = dict[str, np.ndarray]
DIGEST_OF = {WEIGHTS_FILE: "weights_sha256", NOVELTY_FILE: "novelty_sha256"}


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory,
    network: Network,
    package: ModelPackage,
    novelty: Mapping[str, Familiar],
) -> Path:
    folder = tmp_path_factory.mktemp("run") / "package"
    write_package(folder, network, package, novelty)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "package"))


def rewrite(folder: Path, change: Callable[[Values], object]) -> None:
    """Change model.json, with a digest that fits."""
    values: Values = json.loads((folder / MODEL_FILE).read_text())
    change(values)
    values["digest"] = package_digest(json.dumps(values).encode())
    (folder / MODEL_FILE).write_text(json.dumps(values))


def put(folder: Path, name: str, content: bytes) -> None:
    """Put an array file in place of another, with digests that fit."""
    (folder / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    rewrite(folder, lambda values: values.update({DIGEST_OF[name]: digest}))


@pytest.mark.parametrize("kind", [np.float64, np.float16, np.int64, np.bool_])
@pytest.mark.parametrize("name", [WEIGHTS_FILE, NOVELTY_FILE])
def test_arrays_of_another_type_are_refused(folder: Path, name: str, kind: type) -> None:
    arrays = load((folder / name).read_bytes())
    put(folder, name, save({key: array.astype(kind) for key, array in arrays.items()}))
    with pytest.raises(ModelError, match=rf"{name}: array .* is of type {np.dtype(kind)}"):
        open_package(folder)


def test_arrays_of_a_type_that_numpy_has_not_are_refused(folder: Path) -> None:
    arrays = load((folder / WEIGHTS_FILE).read_bytes())
    short = {key: torch.from_numpy(array.copy()).bfloat16() for key, array in arrays.items()}
    put(folder, WEIGHTS_FILE, save_tensors(short))
    with pytest.raises(ModelError, match=rf"{WEIGHTS_FILE}: no safetensors file of 32-bit"):
        open_package(folder)


def test_arrays_of_another_network_are_refused_with_the_file(folder: Path) -> None:
    arrays = load((folder / WEIGHTS_FILE).read_bytes())
    put(folder, WEIGHTS_FILE, save({**arrays, "trunk.more": np.zeros(3, np.float32)}))
    with pytest.raises(ModelError, match=rf"{WEIGHTS_FILE}: array 'trunk.more' is not part"):
        open_package(folder)


def without(arrays: Arrays, task: str) -> Arrays:
    return {key: array for key, array in arrays.items() if not key.startswith(task)}


@pytest.mark.parametrize(
    "changed",
    [
        lambda arrays: without(arrays, "retina"),
        lambda arrays: arrays | {"retina/mean": np.zeros((), np.float32)},
        lambda arrays: arrays | {"retina/mean": arrays["retina/mean"][:3]},
        lambda arrays: (
            arrays
            | {
                "retina/mean": np.zeros(3, np.float32),
                "retina/whitening": np.eye(3, dtype=np.float32),
            }
        ),
    ],
)
def test_a_limit_without_what_is_familiar_is_refused(
    folder: Path, changed: Callable[[Arrays], Arrays]
) -> None:
    """Else nothing would ever be called novel, and nobody would know."""
    put(folder, NOVELTY_FILE, save(changed(load((folder / NOVELTY_FILE).read_bytes()))))
    with pytest.raises(ModelError, match=rf"{NOVELTY_FILE}: the arrays of task retina"):
        open_package(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda model: model.update(image_size_px=2**20), "cannot be built here"),
        (lambda model: model["encoder"].update(max_receptive_field=1e308), "cannot be built here"),
        (lambda model: model["encoder"].update(name="../../etc"), "unknown encoder"),
        (
            lambda model: model["encoder"]["options"].update(checkpoint_path="/data/other.pth"),
            "checkpoint_path is no property of the network",
        ),
    ],
)
def test_a_network_that_cannot_be_built_is_an_error_of_the_file(
    folder: Path, change: Callable[[Values], object], says: str
) -> None:
    rewrite(folder, lambda values: change(values["model"]))
    with pytest.raises(ModelError, match=rf"{MODEL_FILE}: .*{says}"):
        open_package(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.update(left_out={"retina": "Its head stays."}),
        lambda values: values.update(tasks={}, left_out={"retina": "Its head stays."}),
    ],
)
def test_a_task_that_is_answered_and_left_out_is_refused(
    folder: Path, change: Callable[[Values], object]
) -> None:
    rewrite(folder, change)
    with pytest.raises(ModelError, match=rf"{MODEL_FILE}: damaged or of another version"):
        open_package(folder)


@pytest.mark.parametrize("name", [MODEL_FILE, WEIGHTS_FILE, NOVELTY_FILE])
def test_a_file_that_never_ends_is_not_read(folder: Path, name: str) -> None:
    with (folder / name).open("r+b") as file:
        file.truncate(2**40)  # sparse: it takes no room on the disk
    with pytest.raises(ModelError, match=rf"{name}: cannot be read \(longer than"):
        open_package(folder)


@pytest.mark.parametrize("name", [WEIGHTS_FILE, NOVELTY_FILE])
def test_what_is_no_file_is_not_waited_for(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ModelError, match=rf"{name}: cannot be read \(no regular file\)"):
        open_package(folder)
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    with pytest.raises(ModelError, match=rf"{name}: cannot be read \(no regular file\)"):
        open_package(folder)


def test_files_that_are_kept_elsewhere_are_followed(folder: Path) -> None:
    for name in (MODEL_FILE, WEIGHTS_FILE, NOVELTY_FILE):
        (folder / name).rename(folder.parent / name)
        (folder / name).symlink_to(folder.parent / name)
    assert open_package(folder).package.run == "tiny-1"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe{}",
        "{}".encode("utf-16"),
        b'{"run": "\xff"}',
        b"[" * 100_000,
        b'{"round": 1' + b"0" * 10_000 + b"}",
    ],
)
def test_what_is_no_json_of_a_package_is_refused(folder: Path, content: bytes) -> None:
    (folder / MODEL_FILE).write_bytes(content)
    with pytest.raises(ModelError, match=rf"{MODEL_FILE}: damaged"):
        open_package(folder)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "1e999"])
def test_a_number_without_a_size_is_refused(folder: Path, word: str) -> None:
    text = (folder / MODEL_FILE).read_text()
    assert '"temperature":2.0' in text.replace(" ", "")
    (folder / MODEL_FILE).write_text(text.replace('"temperature": 2.0', f'"temperature": {word}'))
    with pytest.raises(ModelError, match=rf"{MODEL_FILE}: damaged"):
        open_package(folder)
