"""Layer-wise relevance propagation, operation by operation: who gets how much of a relevance.

The relevance R of a value x travels backwards as R / x. In this form it travels by ordinary
automatic differentiation: each rule returns the value that the operation would have returned,
written so that its gradient is the rule (Samek et al. 2021, arXiv:2003.07631, section III-C,
"gradient × input" form). Linear operations need no writing, their gradient is the rule. The rest:

- Convolution: LRP-γ for values of either sign (Montavon et al. 2019,
  https://doi.org/10.1007/978-3-030-28954-6_10, section 10.2.3; for either sign Andéol et al. 2021,
  arXiv:2105.02572): what argues for the sign of an output counts 1 + γ times. Weight-standardised
  convolutions arrive here with their standardised weights.
- Linear: LRP-0, which in this form divides by nothing and needs no ε.
- Activations with f(0) = 0 (ReLU, GELU, SiLU): the relevance passes, as x · [f(x) / x].
- Normalisation: the deviation is constant, centring is linear (Ali et al. 2022,
  arXiv:2202.07304, section 3).
- Softmax and sigmoid: constant; they say how much to take, not what (ibid.). So attention and the
  gate of the evidence get no relevance: it goes to what they take.
- Products of two values that both depend on the picture: half to each (Achtibat et al. 2024,
  arXiv:2402.05602, proposition 3.3).
- Max pooling: all to the largest. Average pooling and interpolation are linear.
- Constants that are added (biases, positions): they keep their share, and it is counted.

An operation without a rule is refused, so that no relevance is lost unseen.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from common.explain import lrp_layers
from common.explain.lrp_propagation import Operation, Propagation, carries, refusal

# Propagation, operation, then the operation's own arguments under torch's names.
Rule = Callable[..., object]


def _as_it_is(
    _propagation: Propagation, operation: Operation, *args: object, **kwargs: object
) -> Tensor:
    """Moving, summing, averaging, taking the largest: the gradient is the rule."""
    return operation(*args, **kwargs)


def _constant(
    _propagation: Propagation, operation: Operation, *args: object, **kwargs: object
) -> Tensor:
    """Softmax, sigmoid, what the network itself detaches, and what has only another's shape."""
    with torch.no_grad():
        return operation(*args, **kwargs)


def _activation(
    _propagation: Propagation,
    operation: Operation,
    input: Tensor,
    *rest: object,
    **named: object,
) -> Tensor:
    with torch.no_grad():
        after = operation(input.clone(), *rest, **named)  # a copy: it may work in place
        factor = torch.where(input == 0, 0.0, after / input)
    return input * factor


def _sum(
    propagation: Propagation,
    operation: Operation,
    input: object,
    other: object,
    **named: object,
) -> Tensor:
    if carries(input) and carries(other):
        return operation(input, other, **named)
    values, constant = (input, other) if carries(input) else (other, input)
    if not isinstance(values, Tensor) or not isinstance(constant, (Tensor, int, float)):
        raise refusal(operation)
    with torch.no_grad():
        whole = values + constant  # of the shape that the two are broadcast to
    kept = propagation.counted(constant, like=whole)
    pair = (values, kept) if values is input else (kept, values)
    return operation(*pair, **named)


def _product(
    _propagation: Propagation,
    operation: Operation,
    input: Tensor,
    other: Tensor,
) -> Tensor:
    if not (carries(input) and carries(other)):
        return operation(input, other)
    return (operation(input, other.detach()) + operation(input.detach(), other)) / 2


def _scaled(
    _propagation: Propagation,
    operation: Operation,
    input: Tensor,
    other: object,
) -> Tensor:
    """Dividing by a constant, or multiplying in place by one."""
    if carries(other):
        raise refusal(operation, "has two values of the picture and no rule for them")
    return operation(input, other)


def _joined(
    propagation: Propagation,
    operation: Operation,
    tensors: tuple[Tensor, ...],
    *rest: object,
    **named: object,
) -> Tensor:
    kept = [each if carries(each) else propagation.counted(each, like=each) for each in tensors]
    return operation(kept, *rest, **named)


def _padded(
    _propagation: Propagation,
    operation: Operation,
    input: Tensor,
    pad: list[int],
    mode: str = "constant",
    value: float | None = None,
) -> Tensor:
    if mode == "constant" and value:
        raise refusal(operation, f"pads with {value}, and no rule says what that keeps")
    return operation(input, pad, mode, value)


def _dropout(
    _propagation: Propagation,
    operation: Operation,
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Tensor:
    del inplace
    if training and p > 0:
        raise refusal(operation, "drops values at random; call network.eval() first")
    return input


def _table(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


# By the name that torch gives the operation, whether called as a function, method or operator.
RULES: dict[str, Rule] = {
    **_table(lrp_layers.linear, "linear"),
    **_table(lrp_layers.convolution, "conv1d conv2d conv3d"),
    **_table(lrp_layers.layer_norm, "layer_norm"),
    **_table(lrp_layers.group_norm, "group_norm"),
    **_table(lrp_layers.batch_norm, "batch_norm"),
    **_table(_activation, "relu relu_ relu6 leaky_relu elu selu gelu silu mish hardswish tanh"),
    **_table(_constant, "softmax sigmoid hardsigmoid detach new_zeros new_ones zeros_like"),
    **_table(_sum, "add add_ __add__ __radd__ __iadd__ sub sub_ __sub__ __rsub__ __isub__"),
    **_table(_product, "mul __mul__ __rmul__ matmul __matmul__ __rmatmul__ bmm"),
    **_table(_scaled, "div __truediv__ div_ __itruediv__ mul_ __imul__"),
    **_table(_joined, "cat concat concatenate stack"),
    **_table(_padded, "pad"),
    **_table(_dropout, "dropout"),
    **_table(_as_it_is, "max_pool2d avg_pool2d adaptive_avg_pool2d interpolate mean sum neg"),
    **_table(_as_it_is, "reshape view flatten unflatten permute transpose movedim expand roll"),
    **_table(_as_it_is, "squeeze unsqueeze unbind chunk split __getitem__"),
    **_table(_as_it_is, "clone contiguous to float double type_as"),
}
