"""What the study of explanation methods finds, and the file that keeps it cell by cell."""

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from common.errors import DataError
from common.metrics.estimate import Estimate


@dataclass(frozen=True)
class StageFigures:
    """How alike maps still are with this layer and all nearer the head randomised; means."""

    layer: str
    spearman: float
    ssim: float


@dataclass(frozen=True)
class SanityFigures:
    """Whether a method shows the model or the picture."""

    verdict: str  # "changes" or "does not change"
    changes_at: str | None  # first layer after which maps count as changed
    threshold: float
    stages: tuple[StageFigures, ...]
    bar_metric: str
    bar_margin: float
    trained_meets_bar: bool
    random_meet_bar: int
    random_networks: int
    random_values: tuple[float | None, ...]  # of the bar's metric, one per random network


@dataclass(frozen=True)
class Row:
    """One method on one set, or why there are no figures."""

    set_name: str
    method: str
    failure: str  # "" where there are figures
    seconds: float | None  # per picture, one at a time, median
    estimates: dict[str, Estimate]
    cases: dict[str, tuple[float | None, ...]]  # what the estimates are means of, case by case
    sanity: SanityFigures | None  # None: the method refused on random weights, see the notes
    notes: tuple[str, ...]  # what the method refused to explain, and why


@dataclass(frozen=True)
class SetFigures:
    """One set and the network that was measured on it."""

    name: str
    title: str
    caution: str
    task: str
    size_px: int
    network: str  # how it came to be
    training_pictures: int
    test_pictures: int
    cases: dict[str, int]  # measured pictures by logit
    patients: tuple[int, ...]  # code of each case, in the order of Row.cases
    auroc: Estimate  # of the network on the test part
    roi_drop: Estimate  # logit lost when the region is filled in
    elsewhere_drop: Estimate  # and when the same shape elsewhere is


@dataclass(frozen=True)
class Report:
    """All that was measured, and what could not be."""

    sets: tuple[SetFigures, ...]
    rows: tuple[Row, ...]
    left_out: dict[str, str]  # set → why


_ROW: TypeAdapter[Row] = TypeAdapter(Row)
_REPORT: TypeAdapter[Report] = TypeAdapter(Report)


class KeptRows:
    """A file with one line per finished method and set: a study of an hour survives being cut."""

    def __init__(self, path: Path) -> None:
        """Use a file; it is made with the first row."""
        self._path = path

    def keep(self, row: Row, digest: str) -> None:
        """Add a row."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"digest": digest, "row": _ROW.dump_python(row, mode="json")})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def known(self, digest: str) -> Row | None:
        """Return the row that was measured with exactly these settings, weights and code.

        A last line that was cut off while it was written is passed over.

        Raises:
            DataError: The file holds something else.
        """
        if not self._path.exists():
            return None
        *whole, last = self._path.read_text(encoding="utf-8").split("\n")
        found = None
        for number, line in enumerate([*whole, last] if last.endswith("}") else whole, start=1):
            if not line:
                continue
            try:
                entry = json.loads(line)
                if entry["digest"] == digest:
                    found = _ROW.validate_python(entry["row"])
            except (ValueError, KeyError, TypeError, ValidationError) as error:
                raise DataError(
                    f"{self._path} line {number}: no finished row. Delete the file to start afresh."
                ) from error
        return found


def report_json(report: Report) -> bytes:
    """Return the report as JSON."""
    return _REPORT.dump_json(report, indent=1) + b"\n"


def read_report(content: bytes) -> Report:
    """Return the report that :func:`report_json` wrote."""
    return _REPORT.validate_json(content)
