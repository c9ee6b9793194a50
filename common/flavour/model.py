"""What MLflow loads: a model package that answers a table of pictures with a table of explanations.

MLflow imports this module by name and hands it the folder. Nothing that Fovea writes there can run;
but MLflow believes ``MLmodel``, which no digest of the package is over: whoever can change that
file can have MLflow run other code. A package whose way is not trusted is opened by ``fovea explain
--expect-digest``, which reads none of MLflow's files.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from common.errors import DataError, FoveaError
from common.explaining.asked import methods_named
from common.explaining.breakdown import breakdown, said
from common.explaining.explain_picture import explain_picture
from common.explaining.picture_file import PreparedPicture, prepare_picture
from common.explanation.schema import Explanation, GridMap
from common.flavour.pictures import PictureFile, files_of
from common.package.loading import LoadedModel, open_package

TASK, METHODS = "task", "methods"  # parameters of a prediction
# Columns of the answer, one row per picture.
COLUMNS = (
    "name",
    "answer",  # in a few words
    "probabilities",  # name → calibrated where the task is; of grades and classes they sum to 1
    "prediction_set",  # answers that cannot be ruled out; none where the model has no such sets
    "is_sure",
    "is_novel",
    "maps",  # finding → rows of the model's own map, summands of the logit
    "rationale",  # sentences
    "explanation",  # all of it as JSON (common/explanation/schema.py)
    "failure",  # why a picture has no answer, "" where it has
)

Cell = str | bool | None | list[str] | dict[str, float] | dict[str, list[list[float]]]


@dataclass(frozen=True, eq=False)
class PackagedModel:
    """A model package as MLflow uses it."""

    model: LoadedModel

    def predict(
        self, model_input: pd.DataFrame, params: Mapping[str, object] | None = None
    ) -> pd.DataFrame:
        """Explain every picture of a table, one row of ``COLUMNS`` each.

        A picture that cannot be explained has its reason in ``failure``, whatever was raised for
        it; the others go on. What a library says of a file is not repeated: it may hold a
        patient's name.

        Args:
            model_input: With the column ``image``, the bytes of a PNG, JPEG, TIFF or DICOM file,
                and at will ``name``.
            params: ``task``, to be named where the model has several; ``methods``, names of
                further explanation methods, separated by commas, or ``all``.

        Raises:
            ModelError: The model has no such task, or there is no such method.
            DataError: The table is of another form.
        """
        asked = params or {}
        task = self._task(str(asked.get(TASK) or ""))
        methods = methods_named(str(asked.get(METHODS) or ""))
        rows = [self._row(file, task=task, methods=methods) for file in files_of(model_input)]
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def _task(self, named: str) -> str:
        first = next(iter(self.model.package.tasks))
        return self.model.task_asked_for(
            named, how=f"name one: predict(…, params={{'task': '{first}'}})"
        )

    def _row(self, file: PictureFile, *, task: str, methods: tuple[str, ...]) -> dict[str, Cell]:
        try:
            made = explain_picture(
                self.model,
                self._prepared(file, task),
                task=task,
                now=datetime.now(UTC),
                methods=methods,
            )
            return _cells(made)
        except MemoryError:
            raise
        except FoveaError as error:
            return {"name": file.name, "failure": said(error)}
        except Exception as error:
            return {"name": file.name, "failure": _broken(file, error)}

    def _prepared(self, file: PictureFile, task: str) -> PreparedPicture:
        # The readers want a path. The folder is this user's alone, and the picture's own name,
        # which may hold anything, stays out of it.
        with tempfile.TemporaryDirectory(prefix="fovea-") as folder:
            path = Path(folder, "picture")
            path.write_bytes(file.content)
            about = self.model.about(task)
            try:
                picture = prepare_picture(
                    path,
                    task=self.model.task(task),
                    size_px=about.size_px,
                    config=about.preprocess,
                )
            except DataError as error:
                raise DataError(said(error).replace(str(path), file.name)) from error
        return replace(picture, name=file.name)


def _load_pyfunc(data_path: str) -> PackagedModel:
    """Open the package in a folder; MLflow calls this by its name."""
    return PackagedModel(open_package(Path(data_path)))


def _broken(file: PictureFile, error: Exception) -> str:
    return (
        f"{file.name}: explaining it broke down ({breakdown(error)}). Open it in a viewer and save "
        "it anew; where good pictures break down too, report these words."
    )


def _cells(made: Explanation) -> dict[str, Cell]:
    return {
        "name": made.picture.name,
        "answer": made.answer,
        "probabilities": made.answers or {f.name: f.probability for f in made.findings},
        "prediction_set": list(made.prediction_set.members) if made.prediction_set else None,
        "is_sure": made.prediction_set.is_sure if made.prediction_set else None,
        "is_novel": made.novelty.is_novel if made.novelty else None,
        "maps": {
            finding.name: _rows(own)
            for finding in made.findings
            if (own := finding.methods[0].map) is not None
        },
        "rationale": " ".join(sentence.text for sentence in made.rationale),
        "explanation": made.model_dump_json(),
        "failure": "",
    }


def _rows(own: GridMap) -> list[list[float]]:
    """Return a map row by row from the top."""
    return [
        list(own.values[start : start + own.columns])
        for start in range(0, len(own.values), own.columns)
    ]
