"""Opens a model package: a network that is ready to be used, with all that is known of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.datasets.transforms import normalise
from common.errors import ConfigError, ModelError
from common.metrics.novelty import Familiar
from common.model.arrays import array_names, write_arrays
from common.model.network import Network, build_network
from common.package.answers import questions
from common.package.array_file import read_array_file
from common.package.prediction import Prediction, interpret
from common.package.reading import read_package
from common.package.schema import (
    MODEL_FILE,
    NOVELTY_FILE,
    PACKAGE_FOLDER,
    WEIGHTS_FILE,
    Conformal,
    ModelPackage,
    TaskPackage,
)
from common.package.writing import MEAN, WHITENING
from common.registry import unknown_name
from common.tasks import TASKS, Task, task_named

_PLACES = (Path(), Path(PACKAGE_FOLDER), Path("model", PACKAGE_FOLDER))


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A network in eval mode, what is known of it, and per task what is familiar to it."""

    network: Network
    package: ModelPackage
    novelty: Mapping[str, Familiar]

    def task(self, name: str) -> Task:
        """Return a task with the labels of this model.

        Raises ModelError for a task that it has not, or that was left out, with the reason.
        """
        if name in self.package.left_out:
            raise ModelError(
                f"this model does not answer task {name}: {self.package.left_out[name]}"
            )
        if name not in self.network.tasks:
            raise ModelError(unknown_name("task of this model", name, self.network.tasks))
        return self.network.tasks[name]

    def task_asked_for(self, named: str | None, *, how: str) -> str:
        """Return the task that is named, or the only one.

        A task that was left out counts: whoever has pictures of it must not get the answer of
        another for not naming it.

        Args:
            named: None or "" where the reader names none.
            how: How a reader names one, for the message: "name one with --task".

        Raises:
            ModelError: The model has not the task, or leaves a choice.
        """
        if named:
            return self.task(named).name
        tasks, left_out = list(self.package.tasks), self.package.left_out
        if len(tasks) == 1 and not left_out:
            return tasks[0]
        without = "".join(f", and not {name}: {why}" for name, why in left_out.items()).rstrip(".")
        raise ModelError(f"this model has the tasks {', '.join(tasks)}{without}; {how}.")

    def about(self, name: str) -> TaskPackage:
        """Return what is known of a task. Raises ModelError for one the model has not."""
        return self.package.tasks[self.task(name).name]

    def predict(self, task: str, images: Tensor) -> Prediction:
        """Predict one task for pictures (B, 3, S, S) of :func:`network_input`, in one pass.

        Without gradients, in eval mode; the network is left in the mode it came in.

        Raises ModelError for a task the model has not, or a side that tokens do not fit.
        """
        wanted = self.task(task)
        device = next(self.network.parameters()).device
        was_training = self.network.training
        # It goes through all modules, which for a small network takes as long as a layer.
        if was_training:
            self.network.eval()
        try:
            with torch.inference_mode():
                output = self.network(images.to(device), task=task)
        finally:
            if was_training:
                self.network.train()
        return interpret(
            output, task=wanted, about=self.about(task), familiar=self.novelty.get(task)
        )


def network_input(pictures: NDArray[np.uint8]) -> Tensor:
    """Return prepared pictures (B, S, S, C) as the network sees them, (B, 3, S, S).

    The same steps as those of training and evaluation; C = 1 or 3.
    """
    pixels = torch.from_numpy(np.array(pictures))  # a copy: a shard's arrays are read-only
    return normalise(pixels.permute(0, 3, 1, 2).float() / 255)


def open_package(folder: Path, *, expected_digest: str | None = None) -> LoadedModel:
    """Open a package on the CPU; no configuration file and no network are needed.

    Args:
        folder: Of the package, of a run, or of a run's models.
        expected_digest: Of the package, as the run's summary.json, its MLflow tag or an explanation
            names it; None: only that the package fits its own digest is checked.

    Raises:
        ModelError: There is no package, it is of another version, its files are damaged, changed
            or do not belong together, or it is another package than expected.
    """
    place = _place(folder)
    package = read_package(place / MODEL_FILE)
    if expected_digest is not None and package.digest != expected_digest.lower():
        raise ModelError(
            f"{place}: the package's digest is {package.digest}, expected was {expected_digest}. "
            "It is another package, or was changed: take the package of the run whose summary.json "
            "names the expected digest."
        )
    tasks = {name: _task(name, about, place) for name, about in package.tasks.items()}
    network = _network(package, tasks, place)
    weights = read_array_file(
        place / WEIGHTS_FILE,
        sha256=package.weights_sha256,
        most_numbers=sum(value.numel() for value in network.state_dict().values()),
    )
    if missing := sorted(set(array_names(network)) - set(weights)):
        raise ModelError(
            f"{place / WEIGHTS_FILE}: array {missing[0]!r} is missing. The package is of another "
            "version of Fovea: open it with that one, or package the run's model again."
        )
    try:
        write_arrays(network, weights)
    except ModelError as error:
        raise ModelError(f"{place / WEIGHTS_FILE}: {error}") from error
    width = network.config.width
    familiar = read_array_file(
        place / NOVELTY_FILE,
        sha256=package.novelty_sha256,
        most_numbers=len(tasks) * width * (width + 1),
    )
    return LoadedModel(network.eval(), package, _familiar(familiar, package, width, place))


def _network(package: ModelPackage, tasks: Mapping[str, Task], place: Path) -> Network:
    # Weights are in the package: whatever the file says, none are fetched or read from elsewhere.
    encoder = package.model.encoder.model_copy(update={"pretrained": False})
    config = package.model.model_copy(update={"encoder": encoder})
    try:
        return build_network(config, tasks, seed=package.seed)
    except ModelError as error:
        raise ModelError(
            f"{place / MODEL_FILE}: {error} The package may be of another version of Fovea."
        ) from error
    except (RuntimeError, OverflowError, MemoryError) as error:
        raise ModelError(
            f"{place / MODEL_FILE}: the network that it describes cannot be built here "
            f"({type(error).__name__}). Package the run's model again, or give this machine more "
            "memory."
        ) from error


def _place(folder: Path) -> Path:
    for below in _PLACES:
        if (folder / below / MODEL_FILE).is_file():
            return folder / below
    raise ModelError(
        f"{folder}: no model package. Name the folder of a run that has ended, or of a package: "
        f"it holds {MODEL_FILE}, {WEIGHTS_FILE} and {NOVELTY_FILE}."
    )


def _task(name: str, about: TaskPackage, place: Path) -> Task:
    fixed = name in TASKS and TASKS[name].kind != "multi-label"
    try:
        task = task_named(name, None if fixed else about.labels)
    except ConfigError as error:
        raise ModelError(f"{place / MODEL_FILE}: {error}") from error
    for what, theirs, ours in (
        ("labels", about.labels, task.labels),
        ("concepts", about.concepts, task.concepts),
        (
            "shifts of",
            tuple(about.calibration.shift) if about.calibration else task.class_names,
            task.class_names,
        ),
    ):
        if theirs != ours:
            raise ModelError(
                f"{place / MODEL_FILE}: task {name} has the {what} {', '.join(theirs)}, this "
                f"version of Fovea knows {', '.join(ours)}. Open it with the version it is of."
            )
    if about.calibration is not None and about.calibration.conformal is not None:
        _refuse_gaps(about.calibration.conformal, task, place)
    return task


def _refuse_gaps(conformal: Conformal, task: Task, place: Path) -> None:
    for question in questions(task):
        keys = () if question.name in conformal.left_out else question.keys
        if missing := [key for key in keys if key not in conformal.thresholds]:
            raise ModelError(
                f"{place / MODEL_FILE}: task {task.name} has no threshold for {missing[0]}. The "
                "file is damaged: copy the package anew, or package the run's model again."
            )


def _familiar(
    arrays: Mapping[str, NDArray[np.float32]], package: ModelPackage, width: int, place: Path
) -> dict[str, Familiar]:
    found: dict[str, Familiar] = {}
    for task, about in package.tasks.items():
        mean, whitening = arrays.get(f"{task}/{MEAN}"), arrays.get(f"{task}/{WHITENING}")
        if mean is None and whitening is None and about.novelty_limit is None:
            continue
        if (
            mean is None
            or whitening is None
            or (mean.shape, whitening.shape) != ((width,), (width, width))
        ):
            raise ModelError(
                f"{place / NOVELTY_FILE}: the arrays of task {task} are missing, or do not fit "
                "each other or the network. Package the run's model again."
            )
        found[task] = Familiar(mean=mean, whitening=whitening)
    return found
