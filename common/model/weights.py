"""Weights from safetensors files; nothing here can run code from a file."""

from enum import Enum
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from common.errors import ModelError
from common.model.arrays import array_names


class WeightsKind(Enum):
    """Whose tensor names a file uses."""

    NETWORK = "a Fovea network"
    ENCODER = "a timm encoder"


def kind_of(path: str) -> WeightsKind:
    """Tell a file of a whole network (``trunk.``, ``heads.``) from one of a timm encoder.

    Raises ModelError when the file is missing or no safetensors file.
    """
    if not Path(path).is_file():
        raise ModelError(
            f"weights file {path} does not exist. Give a safetensors file, true or false."
        )
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
    except SafetensorError as error:
        raise ModelError(
            f"{path} is not a safetensors file ({error}). Convert it with safetensors.torch."
        ) from error
    is_network = any(name.startswith(("trunk.", "heads.")) for name in names)
    return WeightsKind.NETWORK if is_network else WeightsKind.ENCODER


def load_weights(network: nn.Module, path: str | Path, *, heads_may_differ: bool = False) -> None:
    """Read a network's weights in place.

    With ``heads_may_differ`` heads in only one of network and file are left alone (starting a
    run of one task from a network that held others). Whole-number buffers (BatchNorm's batch
    counter) are not exchanged between sites and may be missing. Raises ModelError naming what
    does not fit.
    """
    if kind_of(str(path)) is not WeightsKind.NETWORK:
        raise ModelError(
            f"{path} holds no tensors named trunk.* or heads.*: not a network's weights. "
            "An encoder's weights go into encoder.pretrained."
        )
    given = load_file(str(path))
    expected = network.state_dict()
    missing = sorted(set(array_names(network)) - set(given))
    unexpected = sorted(set(given) - set(expected))
    if heads_may_differ:
        missing = _not_of_heads(missing)
        unexpected = _not_of_heads(unexpected)
    misfits = [
        f"{name} is {tuple(given[name].shape)}, expected {tuple(expected[name].shape)}"
        for name in sorted(set(given) & set(expected))
        if given[name].shape != expected[name].shape
    ]
    misfits += [f"{name} is missing" for name in missing]
    misfits += [f"{name} is not part of this network" for name in unexpected]
    if misfits:
        shown = "; ".join(misfits[:5]) + (f"; and {len(misfits) - 5} more" if misfits[5:] else "")
        raise ModelError(
            f"{path} does not fit the configured network: {shown}. Use the model configuration "
            "and labels that the file was trained with."
        )
    matching: dict[str, Tensor] = {n: given[n] for n in expected if n in given}
    network.load_state_dict(matching, strict=False)


def _not_of_heads(names: list[str]) -> list[str]:
    return [name for name in names if not name.startswith("heads.")]
