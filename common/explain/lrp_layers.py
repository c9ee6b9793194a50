"""Rules of layer-wise relevance propagation for layers with weights, and for normalisation.

Each function takes what torch's own takes and returns the same value, written so that its gradient
is the rule; :mod:`common.explain.lrp_rules` says why that works and lists the sources. Arguments
have torch's names, as callers may use them.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from common.explain.lrp_propagation import Operation, Propagation, carries, refusal


def linear(
    propagation: Propagation,
    operation: Operation,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """LRP-0: in proportion to what each input contributed, the bias among them."""
    if carries(weight) or carries(bias):
        raise refusal(operation, "has weights that depend on the picture")
    out = functional.linear(input, weight)
    return out if bias is None else out + propagation.counted(bias, like=out)


def convolution(
    propagation: Propagation,
    operation: Operation,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *rest: object,
    **named: object,
) -> Tensor:
    """LRP-γ for values of either sign.

    z is written as f · [z / f], the bracket constant and in [0, 1]. With P and N the sums of what
    contributed positively and negatively, bias included, f = (1 + γ) P + N where z > 0 and
    P + (1 + γ) N elsewhere. There |f| >= |z|, so that no ε is needed.
    """
    if carries(weight) or carries(bias):
        raise refusal(operation, "has weights that depend on the picture")

    def convolve(values: Tensor, kernel: Tensor) -> Tensor:
        return operation(values, kernel, None, *rest, **named)

    offset = weight.new_zeros(1, 1, 1) if bias is None else bias[:, None, None]  # (C, 1, 1)
    with torch.no_grad():
        out = convolve(input, weight) + offset
    if propagation.gamma == 0:
        return convolve(input, weight) + propagation.counted(offset, like=out)
    positive, negative = _contributions(convolve, input, weight)
    positive = positive + propagation.counted(offset.clamp(min=0), like=out)
    negative = negative + propagation.counted(offset.clamp(max=0), like=out)
    more = 1 + propagation.gamma
    favoured = torch.where(out > 0, more * positive + negative, positive + more * negative)
    with torch.no_grad():
        # Rounding may leave |f| a little below |z| where both are next to nothing.
        factor = torch.where(favoured == 0, 0.0, out / favoured).clamp(0, 1)
    return favoured * factor


def _contributions(
    convolve: Callable[[Tensor, Tensor], Tensor], values: Tensor, kernel: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the sums of positive and of negative products of values and kernel."""
    above, below = kernel.clamp(min=0), kernel.clamp(max=0)
    risen = values.clamp(min=0)
    positive, negative = convolve(risen, above), convolve(risen, below)
    if bool((values < 0).any()):  # after a ReLU nothing is
        fallen = values.clamp(max=0)
        positive = positive + convolve(fallen, below)
        negative = negative + convolve(fallen, above)
    return positive, negative


def layer_norm(  # noqa: PLR0917 - torch's arguments
    propagation: Propagation,
    _operation: Operation,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """The deviation is constant; centring, gain and offset are linear."""
    out = _normalised(input, axes=tuple(range(-len(normalized_shape), 0)), eps=eps)
    out = out if weight is None else out * weight
    return out if bias is None else out + propagation.counted(bias, like=out)


def group_norm(  # noqa: PLR0917 - torch's arguments
    propagation: Propagation,
    _operation: Operation,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """As :func:`layer_norm`, over the channels of a group and all places."""
    # (B, C, H, W) -> (B, G, C / G, H, W)
    groups = input.reshape(len(input), num_groups, -1, *input.shape[2:])
    axes = tuple(range(2, groups.ndim))
    out = _normalised(groups, axes=axes, eps=eps).reshape(input.shape)
    out = out if weight is None else out * _per_channel(weight, out)
    return out if bias is None else out + propagation.counted(_per_channel(bias, out), like=out)


def batch_norm(  # noqa: PLR0917 - torch's arguments
    propagation: Propagation,
    operation: Operation,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Gain and offset from the running statistics: linear.

    Raises ExplanationError in training, where pictures depend on each other.
    """
    del momentum
    if training or running_mean is None or running_var is None:
        raise refusal(operation, "mixes the pictures of a batch; call network.eval() first")
    gain = (running_var + eps).rsqrt() * (1.0 if weight is None else weight)
    offset = (0.0 if bias is None else bias) - running_mean * gain
    out = input * _per_channel(gain, input)
    return out + propagation.counted(_per_channel(offset, out), like=out)


def _normalised(values: Tensor, *, axes: tuple[int, ...], eps: float) -> Tensor:
    centred = values - values.mean(dim=axes, keepdim=True)
    variance = centred.detach().square().mean(dim=axes, keepdim=True)
    return centred / (variance + eps).sqrt()


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 2))  # (C,) -> (C, 1, 1)
