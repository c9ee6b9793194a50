"""Writes one task of a model as an ONNX file, and compares the two before anyone uses it."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from common.datasets.transforms import normalise
from common.errors import ModelError
from common.files.whole_file import write_whole
from common.model.network import Network, Output
from common.package.loading import LoadedModel
from common.package.onnx_model import FORMAT, PICTURES, OnnxAbout, Outputs, opened
from common.tasks import Task

if TYPE_CHECKING:
    from onnx import FunctionProto, GraphProto, ModelProto

OPSET = 20
LARGEST_BYTES = 2**31 - 1  # of a protocol buffer
TOLERANCE = 1e-4  # largest difference of an output, relative to its largest value
OUTPUTS = ("logits", "class_logits", "maps", "evidence", "gate", "context", "pooled")
CONCEPT_OUTPUTS = ("concept_logits", "concept_maps")


class _OneTask(nn.Module):
    """The network as the file has it: prepared 8-bit pictures in, the named outputs out."""

    def __init__(self, network: Network, task: str, names: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.task, self.names = network, task, names

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        shown = normalise(pictures.permute(0, 3, 1, 2).float() / 255)
        output: Output = self.network(shown, task=self.task)
        return tuple(getattr(output, name) for name in self.names)


def export_onnx(model: LoadedModel, *, task: str, path: Path, batch: int | None = None) -> None:
    """Write one task of a model as an ONNX file, in place of a former one.

    The file is run on made-up pictures first, and only written when every output agrees with the
    network's to ``TOLERANCE``.

    Args:
        model: Opened package.
        task: Whose head is exported.
        path: Of the file; its folder is made.
        batch: How many pictures every call will have; None: any number.

    Raises:
        ModelError: The model has no such task, cannot be expressed in ONNX, is larger than an ONNX
            file may be, or does not come out the same.
        OSError: The file cannot be written.
    """
    wanted = model.task(task)
    if batch is not None and batch < 1:
        raise ModelError(f"a batch has at least one picture, got {batch}. Leave it out for any.")
    weights = sum(value.nbytes for value in model.network.state_dict().values())
    if weights > LARGEST_BYTES:
        raise ModelError(
            f"the weights are {weights / 2**30:.1f} GiB; an ONNX file holds at most 2 GiB. Export "
            "a model of a smaller size."
        )
    about = _about(model, wanted)
    names = OUTPUTS + (CONCEPT_OUTPUTS if about.concepts else ())
    network = _OneTask(model.network, task, names)
    # A batch of one would be taken for the only one there is.
    pictures = _made_up(about, 2 if batch is None else batch)
    was_training = model.network.training
    network.eval()
    try:
        content = _content(network, pictures, about=about, is_any_number=batch is None)
        with torch.inference_mode():
            expected = network(torch.from_numpy(pictures))
    finally:
        model.network.train(was_training)
    exported = opened(content, path=path).run(pictures)
    _compare(dict(zip(names, expected, strict=True)), exported)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)


def difference(expected: Tensor, found: np.ndarray) -> float:
    """Return the largest difference of two outputs, relative to the largest value of the first.

    Infinite where one has a number that the other has not.
    """
    ours = expected.detach().numpy()
    if ours.shape != found.shape or not np.isfinite(ours).all() or not np.isfinite(found).all():
        return float("inf")
    size = float(np.abs(ours).max(initial=0.0))
    apart = float(np.abs(ours - found).max(initial=0.0))
    return apart / size if size else apart


def _content(
    network: nn.Module, pictures: np.ndarray, *, about: OnnxAbout, is_any_number: bool
) -> bytes:
    # Seconds to load, which only exporting needs.
    from onnx.checker import check_model  # noqa: PLC0415
    from onnx.helper import set_model_props  # noqa: PLC0415

    any_number = {0: torch.export.Dim("batch")} if is_any_number else None
    names = network.names if isinstance(network, _OneTask) else ()
    try:
        with warnings.catch_warnings():
            # torch's own use of a name that torch has deprecated.
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
            program = torch.onnx.export(
                network,
                (torch.from_numpy(pictures),),
                input_names=[PICTURES],
                output_names=list(names),
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes=(any_number,),
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ModelError(
            f"this network cannot be written as ONNX ({str(error).splitlines()[0]}). Its encoder "
            "has an operation that ONNX lacks: use it through the package instead."
        ) from error
    if program is None:
        raise ModelError("torch exported nothing. Use the model through its package instead.")
    proto = program.model_proto
    _forget_source(proto)
    set_model_props(proto, about.as_properties())
    check_model(proto, full_check=True)
    content: bytes = proto.SerializeToString()
    return content


def _forget_source(proto: "ModelProto") -> None:
    """Take out what torch notes of the code: stack traces with the paths of this machine."""
    parts: list[GraphProto | FunctionProto] = [proto.graph, *proto.functions]
    for part in parts:
        for node in part.node:
            node.ClearField("metadata_props")
            node.ClearField("doc_string")
        for value in part.value_info:
            value.ClearField("metadata_props")
        part.ClearField("metadata_props")
    for value in (*proto.graph.input, *proto.graph.output):
        value.ClearField("metadata_props")
    for weight in proto.graph.initializer:
        weight.ClearField("metadata_props")
    proto.ClearField("metadata_props")


def _about(model: LoadedModel, task: Task) -> OnnxAbout:
    package, about = model.package, model.about(task.name)
    calibration = about.calibration
    has_concepts = bool(model.network.config.concepts.get(task.name)) and bool(task.concepts)
    return OnnxAbout(
        format=FORMAT,
        run=package.run,
        round=package.round,
        weights_sha256=package.weights_sha256,
        config_digest=package.config_digest,
        task=task.name,
        kind=task.kind,
        labels=task.labels,
        class_names=task.class_names,
        logit_names=task.logit_names,
        concepts=task.concepts if has_concepts else (),
        channels=3 if task.channels == 3 else 1,
        size_px=about.size_px,
        preprocess=about.preprocess,
        shift=tuple(calibration.shift[name] for name in task.class_names) if calibration else None,
        temperature=calibration.temperature if calibration else None,
        package_digest=package.digest,
    )


def _made_up(about: OnnxAbout, count: int) -> np.ndarray:
    shape = (count, about.size_px, about.size_px, about.channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _compare(expected: dict[str, Tensor], found: Outputs) -> None:
    for name, ours in expected.items():
        apart = difference(ours, found[name])
        if not apart <= TOLERANCE:
            raise ModelError(
                f"the exported model's {name} differ from the network's by {apart:.1e} of their "
                f"size, at most {TOLERANCE:.0e} is accepted. Nothing was written; use the model "
                "through its package instead."
            )
