"""What an earlier run left in a folder that is used again: taken away, so that nobody reads it."""

import shutil
from pathlib import Path

from common.package.schema import PACKAGE_FOLDER
from server.journal.kept_rounds import KeptRounds
from server.measuring.overlay_files import FOLDER
from server.record.checkpoint import ModelFiles
from server.record.summary import FILE_NAME
from server.report.report import report_files

MODEL_FOLDER = "model"
MODEL_CARD_FILE = "config.json"  # in the model's folder


def clear_former_run(out: Path) -> None:
    """Remove the summary, the report, the pictures and the models of an earlier run.

    Prepared shards and MLflow's history stay. The summary goes first: it is what says COMPLETE.
    """
    models = ModelFiles(out / MODEL_FOLDER)
    for path in (
        out / FILE_NAME,
        *report_files(out).values(),
        models.checkpoint,
        models.best,
        models.last,
        models.secure_round,
        models.folder / MODEL_CARD_FILE,
    ):
        path.unlink(missing_ok=True)
    KeptRounds(out).clear()
    for folder in (models.folder / PACKAGE_FOLDER, out / FOLDER):
        if folder.is_dir():
            shutil.rmtree(folder)
