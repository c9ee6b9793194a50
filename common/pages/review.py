"""A clinician's review of an explanation: the file that a page saves, and how it is read."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from common.errors import DataError
from common.files.whole_file import read_plain

FORMAT: Literal[1] = 1
Answer = Literal["yes", "partly", "no", "cannot tell"]
ANSWERS: tuple[Answer, ...] = get_args(Answer)
READER = "[A-Za-z0-9._\\-]{1,32}"  # a code; as HTML and pydantic both read it
LONGEST_REMARK = 2000  # characters
LARGEST_FILE = 64 * 1024  # bytes: far more than any review has

Confidence = Annotated[int, Field(ge=0, le=100)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Review(BaseModel):
    """What one reader says of one map of one finding in one picture."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[1]
    made_at: AwareDatetime
    reader: Annotated[str, Field(pattern=f"^{READER}$")]
    picture_sha256: Digest
    weights_sha256: Digest
    explained_at: str  # the explanation's made_at
    run: str
    task: str
    finding: str
    method: str  # whose map was shown
    region: Answer  # is the marked region the reason
    rationale: Answer  # is the rationale right
    confidence_before: Confidence  # that the finding is there, before the page was seen
    confidence_after: Confidence
    remark: Annotated[str, Field(max_length=LONGEST_REMARK)]

    @property
    def item(self) -> tuple[str, str, str, str, str]:
        """What was judged: reviews of the same item can be held against each other."""
        return (self.picture_sha256, self.weights_sha256, self.task, self.finding, self.method)


@dataclass(frozen=True)
class Reading:
    """What folders hold: reviews, each reader's last word on an item, and files that are none."""

    reviews: tuple[Review, ...]
    superseded: int  # earlier reviews of the same item by the same reader
    failures: tuple[tuple[Path, str], ...]  # file, what is wrong with it


def read_review(path: Path) -> Review:
    """Read a review. Raises DataError naming file, key and what was expected."""
    try:
        content = read_plain(path, at_most=LARGEST_FILE)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}). Give the file that the page saved."
        ) from error
    try:
        return Review.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]  # the input may be a remark
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DataError(
            f"{path}: {place}: {first['msg']}. It is not a review as the page saves it; fill the "
            "form in again."
        ) from error


def review_files(folders: Iterable[Path]) -> list[Path]:
    """Return the JSON files in folders that may be reviews, in order, each once.

    A page's own JSON (``NAME.json`` beside ``NAME.html``) is not one. A file that is named itself
    always is. Raises DataError for what is not there.
    """
    found: dict[Path, None] = {}
    for folder in folders:
        if folder.is_dir():
            files = sorted(folder.rglob("*.json"))
            found |= dict.fromkeys(one for one in files if not one.with_suffix(".html").exists())
        elif folder.exists():
            found[folder] = None
        else:
            raise DataError(f"{folder}: not there. Give folders with reviews, or the files.")
    return list(found)


def read_reviews(folders: Iterable[Path]) -> Reading:
    """Read every review in folders; a bad file is named, and the rest go on.

    Raises DataError for a folder that is not there.
    """
    last: dict[tuple[str, ...], Review] = {}
    failures, superseded = [], 0
    for path in review_files(folders):
        try:
            review = read_review(path)
        except DataError as error:
            failures.append((path, str(error)))
            continue
        key = (review.reader, *review.item)
        if key in last:
            superseded += 1
        if key not in last or review.made_at >= last[key].made_at:
            last[key] = review
    ordered = tuple(last[key] for key in sorted(last))
    return Reading(reviews=ordered, superseded=superseded, failures=tuple(failures))
