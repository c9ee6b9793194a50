"""How large a picture may be before reading it is refused."""

from pathlib import Path

from common.errors import DataError

MAX_PIXELS = 100_000_000  # a decoded picture of 100 megapixels takes 300 MB; larger is an attack


def refuse_size(path: Path, *, width: int, height: int) -> None:
    """Raise DataError for a picture without pixels or with more than ``MAX_PIXELS``."""
    if width < 1 or height < 1:
        raise DataError(f"{path}: {width}x{height} pixels; leave it out.")
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{path}: {width}x{height} pixels are more than the {MAX_PIXELS:,} permitted; "
            "make it smaller (tiles of a slide, for instance)."
        )
