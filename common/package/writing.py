"""Writes a model package: the whole folder appears, or nothing does."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from common.config.model import ModelConfig
from common.errors import DataError
from common.files.whole_file import sync_folder, write_whole
from common.messages.kinds import Arrays
from common.metrics.novelty import Familiar
from common.model.arrays import array_names, read_arrays
from common.model.layers import TRUNK, group_of
from common.model.network import Network
from common.package.digest import package_digest
from common.package.schema import (
    FLAVOUR_FILES,
    MODEL_FILE,
    NOVELTY_FILE,
    WEIGHTS_FILE,
    ModelPackage,
)

MEAN, WHITENING = "mean", "whitening"  # per task: ``retina/mean``


def write_package(
    folder: Path, network: Network, package: ModelPackage, novelty: Mapping[str, Familiar]
) -> ModelPackage:
    """Write a network with all it needs to be used, in place of a former package.

    A crash leaves the former package, or none, or the whole new one. Its files are
    ``model.json``, ``model.safetensors`` and ``novelty.safetensors``; nothing in them can run.
    Heads of tasks that the package leaves out are not among the weights.

    Args:
        folder: Of the package alone; its parents are made.
        network: With a head for each task of the package, answered or left out.
        package: What is known of the model. The digests of the two array files and of the whole
            package are filled in, and the network is said to need no pretrained weights: it has its
            own.
        novelty: Per task, what is familiar; tasks without are left out.

    Returns:
        The package as it was written.

    Raises:
        DataError: Network, package and novelty are not of the same tasks, or the folder holds
            something other than a package.
        OSError: The folder cannot be written.
    """
    _check(folder, network, package, novelty)
    groups = {TRUNK, *package.tasks}
    names = [name for name in array_names(network) if group_of(name) in groups]
    weights = _bytes(read_arrays(network, names))
    familiar = _bytes(
        {
            f"{task}/{name}": array
            for task, known in sorted(novelty.items())
            for name, array in ((MEAN, known.mean), (WHITENING, known.whitening))
        }
    )
    whole = _with_digest(
        package.model_copy(
            update={
                "model": _model_config(network.config, package),
                "weights_sha256": hashlib.sha256(weights).hexdigest(),
                "novelty_sha256": hashlib.sha256(familiar).hexdigest(),
            }
        )
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        write_whole(beside / WEIGHTS_FILE, weights)
        write_whole(beside / NOVELTY_FILE, familiar)
        write_whole(beside / MODEL_FILE, _text(whole))
        beside.chmod(0o755)  # made for its owner alone
        if folder.exists():
            former = beside.with_name(f"{beside.name}.former")
            folder.rename(former)
            beside.rename(folder)
            shutil.rmtree(former)
        else:
            beside.rename(folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    sync_folder(folder.parent)
    return whole


def _check(
    folder: Path, network: Network, package: ModelPackage, novelty: Mapping[str, Familiar]
) -> None:
    named = sorted([*package.tasks, *package.left_out])
    if sorted(network.tasks) != named or not set(novelty) <= set(package.tasks):
        raise DataError(
            f"the network has the tasks {', '.join(network.tasks)}, the package "
            f"{', '.join(named)}, novelty {', '.join(novelty) or 'none'}. They must be of the same "
            "model, and every task once: answered or left out."
        )
    if not package.tasks:
        raise DataError("the package answers no task. Package a model with a trained head.")
    for name, about in package.tasks.items():
        task = network.tasks[name]
        if (task.labels, task.concepts) != (about.labels, about.concepts):
            raise DataError(
                f"task {name} of the network and of the package have different labels or concepts. "
                "They must be of the same model."
            )
    own = {MODEL_FILE, WEIGHTS_FILE, NOVELTY_FILE, *FLAVOUR_FILES}
    if folder.exists() and set(os.listdir(folder)) - own:
        raise DataError(
            f"{folder}: holds other files than a package's, which would be lost. Name another "
            "folder, or move them away."
        )


def _model_config(config: ModelConfig, package: ModelPackage) -> ModelConfig:
    """Return the network's configuration as the package's tasks and weights need it."""
    return config.model_copy(
        update={
            "encoder": config.encoder.model_copy(update={"pretrained": False}),
            "context_labels": {
                task: labels
                for task, labels in config.context_labels.items()
                if task in package.tasks
            },
            "concepts": {t: on for t, on in config.concepts.items() if t in package.tasks},
        }
    )


def _with_digest(package: ModelPackage) -> ModelPackage:
    return package.model_copy(update={"digest": package_digest(_text(package))})


def _text(package: ModelPackage) -> bytes:
    return (package.model_dump_json(indent=1) + "\n").encode()


def _bytes(arrays: Arrays) -> bytes:
    # safetensors ignores strides: a transposed view would be written in the wrong order.
    content: bytes = save({name: np.asarray(a, order="C") for name, a in arrays.items()})
    return content
