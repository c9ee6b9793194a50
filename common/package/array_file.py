"""Reads a package's array file, held to the digest that its model.json names. Light: no torch."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from common.errors import ModelError
from common.files.whole_file import read_plain
from common.package.schema import MODEL_FILE

_HEADER_BYTES = 2**24  # names, shapes and places of the arrays: some hundred bytes each


def read_array_file(
    path: Path, *, sha256: str, most_numbers: int
) -> dict[str, NDArray[np.float32]]:
    """Return the named arrays of a safetensors file.

    Args:
        path: Of the file.
        sha256: Of its bytes, as model.json names it.
        most_numbers: That the network it is for can use; a longer file is not read.

    Raises ModelError where it cannot be read, is another file, or holds no 32-bit numbers.
    """
    try:
        # Resolved: a store of models may keep the file elsewhere and link to it.
        content = read_plain(path.resolve(), at_most=4 * most_numbers + _HEADER_BYTES)
    except OSError as error:
        raise ModelError(
            f"{path}: cannot be read ({error.strerror}). Copy the package whole, or package the "
            "run's model again."
        ) from error
    # The bytes that were compared are those that are used.
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ModelError(
            f"{path}: its digest is {found[:12]}…, {MODEL_FILE} names {sha256[:12]}…. The file is "
            "damaged or of another model: copy the package anew, or package the run's model again."
        )
    try:
        arrays: dict[str, NDArray[np.float32]] = load(content)
    except (SafetensorError, KeyError) as error:  # KeyError: a type that numpy has not
        raise ModelError(
            f"{path}: no safetensors file of 32-bit numbers. Package the run's model again."
        ) from error
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise ModelError(
                f"{path}: array {name!r} is of type {array.dtype}, a package has float32. Package "
                "the run's model again."
            )
    return arrays
