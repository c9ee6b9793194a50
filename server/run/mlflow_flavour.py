"""Makes a model package one that MLflow can load, and nothing in it can run.

Beside the package's own files stands what MLflow asks for: ``MLmodel`` with the signature, an input
example, and the versions of what Fovea needs. MLflow then imports ``common.flavour.model``, which
opens safetensors and JSON; there is no pickle and no code in the folder.
"""

import server.journal.mlflow_environment  # isort: skip  # before mlflow  # noqa: F401

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import requires, version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import RunError
from common.files.whole_file import write_whole
from common.package.reading import read_package
from common.package.schema import FLAVOUR_FILES, MODEL_FILE

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

LOADER = "common.flavour.model"
PROGRAM = "fovea"
EXAMPLE_PX = 32


def write_flavour(folder: Path) -> None:
    """Add MLflow's files to a package's folder, in place of former ones.

    The environment is Fovea itself in the version that is noted, installed from where the hospital
    has it: its name is not looked up on any package index. ``requirements.txt`` pins what that
    version of Fovea needs.

    Raises:
        ModelError: The folder holds no package, or a changed one.
        RunError: MLflow refuses.
        OSError: A file cannot be read or written.
    """
    import pandas as pd  # noqa: PLC0415

    from common.flavour.model import TASK  # noqa: PLC0415 - brings torch
    from common.flavour.pictures import IMAGE, png  # noqa: PLC0415

    package = read_package(folder / MODEL_FILE)
    pixels = np.full((EXAMPLE_PX, EXAMPLE_PX), 128, np.uint8)
    tasks = list(package.tasks)
    with tempfile.TemporaryDirectory(prefix=".mlflow.", dir=folder.parent) as temporary:
        made = Path(temporary, "model")
        with _quiet():
            import mlflow.pyfunc
            from mlflow.exceptions import MlflowException

            # MLflow sets it anew when it is imported.
            logging.getLogger("mlflow").setLevel(logging.ERROR)
            saved = partial(
                mlflow.pyfunc.save_model,
                made,
                loader_module=LOADER,
                signature=_signature("" if package.left_out or tasks[1:] else tasks[0]),
                input_example=(pd.DataFrame({IMAGE: [png(pixels)]}), {TASK: tasks[0]}),
                pip_requirements=pinned(),  # else MLflow would try the model to find them out
                metadata={
                    PROGRAM: version(PROGRAM),
                    "run": package.run,
                    "round": package.round,
                    "weights_sha256": package.weights_sha256,
                    "package_digest": package.digest,
                    "tasks": tasks,
                },
            )
            try:
                saved()
            except MlflowException as error:
                raise RunError(
                    f"{folder}: MLflow refuses to describe it ({error.message}). It is a package "
                    "all the same: open it with `fovea explain`."
                ) from error
        for name in FLAVOUR_FILES:
            (folder / name).unlink(missing_ok=True)
        # MLmodel last: without it the folder is a package and no MLflow model.
        for path in sorted(made.iterdir(), key=lambda path: path.name == "MLmodel"):
            write_whole(folder / path.name, path.read_bytes())


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep MLflow from telling every step, and from warning of its own type hints and tables."""
    told = logging.getLogger("mlflow")
    level = told.level
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*Any type hint is inferred as AnyType")
            warnings.filterwarnings("ignore", "Operation with range is deprecated")
            yield
    finally:
        told.setLevel(level)


def pinned() -> list[str]:
    """Return what Fovea needs in the versions it is made for, without tools for developing."""
    # Those of an extra carry a marker; Fovea's own have none.
    return sorted(text for text in requires(PROGRAM) or () if ";" not in text)


def _signature(default_task: str) -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types.schema import (
        Array,
        ColSpec,
        DataType,
        Map,
        ParamSchema,
        ParamSpec,
        Schema,
    )

    from common.flavour.model import METHODS, TASK  # noqa: PLC0415
    from common.flavour.pictures import IMAGE, NAME  # noqa: PLC0415

    numbers, text, yes_no = DataType.double, DataType.string, DataType.boolean
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, IMAGE), ColSpec(text, NAME, required=False)]),
        outputs=Schema(
            [
                ColSpec(text, "name"),
                ColSpec(text, "answer", required=False),
                ColSpec(Map(numbers), "probabilities", required=False),
                ColSpec(Array(text), "prediction_set", required=False),
                ColSpec(yes_no, "is_sure", required=False),
                ColSpec(yes_no, "is_novel", required=False),
                ColSpec(Map(Array(Array(numbers))), "maps", required=False),
                ColSpec(text, "rationale", required=False),
                ColSpec(text, "explanation", required=False),
                ColSpec(text, "failure"),
            ]
        ),
        params=ParamSchema(
            [
                ParamSpec(TASK, text, default_task),
                ParamSpec(METHODS, text, ""),
            ]
        ),
    )
