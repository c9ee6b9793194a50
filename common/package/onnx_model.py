"""A model of one task as an ONNX file: opened and run by ONNX Runtime, without torch.

The file takes prepared pictures as they are, 8 bits per value; normalisation is in the graph. What
it is of, and how pictures are prepared for it, stands in its metadata.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from common.config.run import PreprocessConfig, Section
from common.errors import ModelError
from common.tasks import TargetKind

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

FORMAT: Literal[1] = 1
PICTURES = "pictures"  # the graph's only input, (B, S, S, C) uint8
Outputs = Mapping[str, NDArray[np.float32]]


class OnnxAbout(Section):
    """What an ONNX file is of; every field is an entry of its ``metadata_props``."""

    format: Literal[1]
    run: str
    round: Annotated[int, Field(ge=0)]
    weights_sha256: str  # of the package's model.safetensors
    config_digest: str
    task: str
    kind: TargetKind
    labels: tuple[str, ...]
    class_names: tuple[str, ...]  # of class_logits
    logit_names: tuple[str, ...]  # of logits, maps, evidence, gate and context
    concepts: tuple[str, ...]  # of concept_logits and concept_maps; empty: neither is there
    channels: Literal[1, 3]
    size_px: Annotated[int, Field(ge=1)]
    preprocess: PreprocessConfig
    # Probabilities are sigmoid((class_logits - shift) / temperature), in the order of class_names;
    # None: the task is not calibrated.
    shift: tuple[float, ...] | None
    temperature: Annotated[float, Field(gt=0)] | None
    package_digest: str = ""  # of the package it was exported from; "": it was never written

    def as_properties(self) -> dict[str, str]:
        """Return the metadata: texts as they are, everything else as JSON."""
        values = self.model_dump(mode="json")
        return {
            name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for name, value in values.items()
        }

    @classmethod
    def from_properties(cls, properties: Mapping[str, str], *, path: Path) -> "OnnxAbout":
        """Read the metadata of a file. Raises ModelError for a file that Fovea has not written."""
        try:
            return cls.model_validate(
                {
                    name: properties[name] if _is_text(name) else json.loads(properties[name])
                    for name in cls.model_fields
                    if name in properties
                }
            )
        except (ValidationError, json.JSONDecodeError) as error:
            raise ModelError(
                f"{path}: not exported by this version of Fovea; export it with `fovea export`."
            ) from error


@dataclass(frozen=True, eq=False)
class OnnxModel:
    """An opened file."""

    about: OnnxAbout
    session: "InferenceSession"

    def run(self, pictures: NDArray[np.uint8]) -> Outputs:
        """Return what the network says of prepared pictures (B, S, S, C).

        ``logits`` (B, T), ``class_logits`` (B, C), ``maps``, ``evidence`` and ``gate``
        (B, T, h, w), ``context`` (B, T), ``pooled`` (B, d), and with concepts ``concept_logits``
        (B, K) and ``concept_maps`` (B, K, h, w); see :class:`common.model.network.Output`.

        Raises ModelError for pictures of another type or shape, or more of them than the file is
        made for.
        """
        wanted = self.session.get_inputs()[0].shape
        fits = pictures.ndim == 4 and all(
            isinstance(side, str) or side == found
            for side, found in zip(wanted, pictures.shape, strict=True)
        )
        if pictures.dtype != np.uint8 or not fits:
            size = "any number of" if isinstance(wanted[0], str) else f"exactly {wanted[0]}"
            raise ModelError(
                f"this model takes {size} pictures (…, {', '.join(map(str, wanted[1:]))}) of type "
                f"uint8, got {pictures.shape} of type {pictures.dtype}. Prepare them as its "
                "metadata says, or export it for another number."
            )
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, {PICTURES: pictures}), strict=True))


def open_onnx(path: Path, *, threads: int | None = None) -> OnnxModel:
    """Open an exported file on the CPU.

    Args:
        path: That ``fovea export`` has written.
        threads: Of one run; None: as many as the machine has cores.

    Raises:
        ModelError: There is no such file, or it is not an exported model.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); check the path.") from error
    return opened(content, path=path, threads=threads)


def opened(content: bytes, *, path: Path, threads: int | None = None) -> OnnxModel:
    """Open a file's bytes; ``path`` is for messages. Raises ModelError as :func:`open_onnx`."""
    from onnxruntime import InferenceSession, SessionOptions  # noqa: PLC0415 - half a second
    from onnxruntime.capi.onnxruntime_pybind11_state import (  # noqa: PLC0415
        Fail,
        InvalidGraph,
        InvalidProtobuf,
    )

    options = SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except (Fail, InvalidGraph, InvalidProtobuf) as error:
        raise ModelError(
            f"{path}: no ONNX file that can be run here; export it with `fovea export`."
        ) from error
    properties = session.get_modelmeta().custom_metadata_map
    return OnnxModel(OnnxAbout.from_properties(properties, path=path), session)


def _is_text(name: str) -> bool:
    return OnnxAbout.model_fields[name].annotation in (str, TargetKind)
