"""Named arrays with a note, written so that a crash leaves the old file or the whole new one."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from common.errors import DataError
from common.files.whole_file import sync_folder, write_whole
from common.messages.kinds import Arrays

_NOTE = "note"


def write_array_file(path: Path, arrays: Arrays, note: Mapping[str, JsonValue]) -> None:
    """Write a safetensors file with a JSON note in its header; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # safetensors ignores strides: a transposed view would be written in the wrong order.
    flat = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    content = save(flat, metadata={_NOTE: json.dumps(note, allow_nan=False)})
    write_whole(path, content, mode=0o600)


def rename_durably(path: Path, new: Path) -> None:
    """Give a file another name in its folder; when this returns that outlasts a power cut."""
    path.replace(new)
    sync_folder(new.parent)


def read_array_file(path: Path) -> tuple[dict[str, NDArray[np.float32]], dict[str, JsonValue]]:
    """Return the arrays and the note. Raises DataError when the file is not one of these."""
    try:
        with safe_open(path, framework="numpy") as file:
            note = json.loads((file.metadata() or {}).get(_NOTE, "null"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Delete it to start afresh.") from error
    if not isinstance(note, dict):
        raise DataError(f"{path}: written by something else. Delete it to start afresh.")
    return arrays, note
