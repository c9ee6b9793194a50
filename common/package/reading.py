"""Reads what a package says of its model, and holds it to its digest. Light: no torch."""

from pathlib import Path

from pydantic import ValidationError

from common.errors import ModelError
from common.files.whole_file import read_plain
from common.package.digest import package_digest
from common.package.schema import ModelPackage

_LARGEST_BYTES = 2**24  # a model.json has some ten thousand


def read_package(path: Path) -> ModelPackage:
    """Return what a model.json holds; the files beside it are not looked at.

    Raises ModelError where it cannot be read, is of another version, or a value in it is not the
    one that was packaged.
    """
    try:
        # Resolved: a store of models may keep the file elsewhere and link to it.
        content = read_plain(path.resolve(), at_most=_LARGEST_BYTES)
        package = ModelPackage.model_validate_json(content)
        found = package_digest(content)
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read ({error.strerror}). Copy the package whole."
        ) from error
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"]) or "the whole file"
        raise ModelError(
            f"{path}: damaged or of another version ({where}). Package the run's model again."
        ) from error
    except ValueError as error:
        raise ModelError(f"{path}: damaged ({error}). Copy the package anew.") from error
    if found != package.digest:
        named = f"{package.digest[:12]}…" if package.digest else "none"
        raise ModelError(
            f"{path}: the package's digest by what the file says is {found[:12]}…, the file names "
            f"{named}. A value in it, such as a temperature or a threshold, is not the one that "
            "was packaged: copy the package anew, or package the run's model again."
        )
    return package
