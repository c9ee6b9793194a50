"""What the rules of layer-wise relevance propagation share, and how one is refused."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from common.errors import ExplanationError

Operation = Callable[..., Tensor]  # of torch, as the network called it


@dataclass(frozen=True)
class Propagation:
    """The state of one propagation over B pictures."""

    # (B,) ones. Constants enter multiplied by them, so that their gradient is what constants keep.
    constants: Tensor
    gamma: float  # >= 0; how much more counts what argues for the sign of a convolution's output

    def counted(self, constant: Tensor | float, *, like: Tensor) -> Tensor:
        """Return a constant that is added to ``like`` (B, …), with its relevance counted.

        Raises ExplanationError if the first axis of ``like`` is not the pictures'.
        """
        pictures = self.constants.shape[0]
        if like.ndim == 0 or like.shape[0] != pictures:
            raise ExplanationError(
                f"{place()} adds a constant to a tensor of shape {tuple(like.shape)}, whose first "
                f"axis does not count the {pictures} pictures, so that what the constant keeps "
                "cannot be told picture by picture. Use another method."
            )
        return constant * self.constants.to(like.dtype).view(-1, *[1] * (like.ndim - 1))


def carries(value: object) -> bool:
    """Say whether a value, or one in a sequence of values, depends on the picture."""
    if isinstance(value, Tensor):
        return value.requires_grad
    return isinstance(value, (list, tuple)) and any(carries(item) for item in value)


def refusal(operation: object, why: str = "has no rule") -> ExplanationError:
    """Return the error that names the layer and the operation whose relevance cannot be told."""
    name = getattr(operation, "__name__", repr(operation))
    return ExplanationError(
        f"layer-wise relevance propagation cannot pass {place()}: its operation {name!r} {why}. "
        "Use another method, or add the rule with its source to common/explain/lrp_rules.py."
    )


def place() -> str:
    """Name the layer whose forward pass is running, by its class and what it is made of."""
    # Looked up only when something is refused: hooks on every layer would cost each propagation.
    frame = sys._getframe(1)
    while frame is not None:
        layer = frame.f_locals.get("self")
        if isinstance(layer, nn.Module) and frame.f_code.co_name == "forward":
            return f"the layer {type(layer).__name__}({layer.extra_repr()})"
        frame = frame.f_back  # type: ignore[assignment]
    return "the network"
