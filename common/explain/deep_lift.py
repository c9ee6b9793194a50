"""DeepLIFT: the logit's difference from a blurred picture's, handed back unit by unit."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from captum.attr import DeepLift
from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR, nonlinear
from torch import Tensor, nn
from torch.nn import functional

from common.errors import ExplanationError
from common.explain.at_rest import at_rest
from common.explain.attribution import Attribution, attribution_of
from common.explain.baseline import blurred
from common.explain.score import Score, score_of
from common.model.network import Network

PICTURES_AT_ONCE = 16  # twice as many with their baselines: what a small machine's memory holds
# Activations by the name of their class (timm has its own), to which captum's rule for
# element-wise functions applies as well; it lists only those of 2017.
SMOOTH = ("GELU", "SiLU", "Mish", "Hardswish")


def deep_lift(network: Network, images: Tensor, *, task: str, logit: int) -> Tensor:
    """Return which pixels raise one logit above that of the blurred picture, approximately.

    Shrikumar, Greenside and Kundaje 2017, arXiv:1704.02685, rescale rule, with captum. Exact on
    networks of ReLU and max pooling; **approximate on this one**, see :func:`attribute`. A map to
    compare with others, not to rest a decision on.

    Args:
        network: The model.
        images: (B, 3, H, W), H = W.
        task: Whose head is asked.
        logit: Which of its logits.

    Returns:
        (B, H, W), >= 0, each summing to 1 (or all zero).

    Raises:
        ExplanationError: An activation of the network runs more than once.
    """
    return attribute(network, images, task=task, logit=logit).saliency()


def attribute(network: Network, images: Tensor, *, task: str, logit: int) -> Attribution:
    """Return signed contributions (B, 3, H, W) to the logit and their gap, which is not small.

    Activations and max pooling that are layers are rescaled. Normalisation, softmax, the GELU
    after the encoder and the product of gate and evidence get their gradient instead, so that the
    contributions do not add up to the logit's difference (Shrikumar et al., equation 1). ``gap``
    says by how much for each picture. Its median was 63 % of the difference on forty lesion
    phantoms with configs/models/tiny.yaml trained on them, and more than 310 % for a tenth; on
    noise, untrained, 39 % (tiny), 98 % (small) and 75 % (base). With captum alone 100 % of an
    untrained tiny network's: see :func:`_private_inputs`.

    Raises ExplanationError as :func:`rescaled` does.
    """
    with at_rest(network):
        score = score_of(network, task=task, logit=logit)
        parts = [rescaled(network, score, part) for part in torch.split(images, PICTURES_AT_ONCE)]
    return Attribution(
        values=torch.cat([part.values for part in parts]),
        difference=torch.cat([part.difference for part in parts]),
        gap=torch.cat([part.gap for part in parts]),
    )


def rescaled(network: nn.Module, score: Score, images: Tensor) -> Attribution:
    """Attribute the difference of a score of ``network`` between pictures and blurred pictures.

    Args:
        network: What ``score`` runs: pictures (B, 3, H, W) to (B,). In evaluation mode.
        score: As :func:`common.explain.score.score_of` gives it.
        images: (B, 3, H, W), H = W.

    Raises:
        ExplanationError: An activation runs more than once, which captum cannot take apart.
    """
    pictures, baseline = images.detach().clone(), blurred(images).detach().clone()
    with torch.no_grad():
        difference = score(pictures) - score(baseline)
    with _private_inputs(network), _without_traces(network), _any_algorithm():
        try:
            values = _Rescale(_Scored(network, score)).attribute(
                pictures.requires_grad_(), baselines=baseline
            )
        except RuntimeError as error:
            if "more than once" not in str(error):
                raise
            raise ExplanationError(
                f"DeepLIFT cannot explain this network: {error} Use integrated gradients."
            ) from error
    return attribution_of(values.detach(), difference=difference)


class _Rescale(DeepLift):  # type: ignore[misc]  # captum is not typed
    """captum's rescale rule, for more activations and for max pooling whose windows overlap."""

    def _is_non_linear(self, module: nn.Module) -> bool:
        return _is_rescaled(module)

    def _backward_hook(self, module: nn.Module, grad_input: Tensor, grad_output: Tensor) -> Tensor:
        is_pooling = isinstance(module, nn.MaxPool2d)
        is_ours = is_pooling or type(module).__name__ in SMOOTH
        if not is_ours or not self.satisfies_attribute_criteria(module):  # the latter it refuses
            multipliers: Tensor = super()._backward_hook(module, grad_input, grad_output)
            return multipliers
        rule: Callable[..., Tensor] = _of_max_pooling if is_pooling else nonlinear
        multipliers = rule(module, module.input, module.output, grad_input, grad_output, self.eps)
        del module.input, module.output  # as captum does, which stored them
        return multipliers


def _is_rescaled(module: nn.Module) -> bool:
    return type(module) in SUPPORTED_NON_LINEAR or type(module).__name__ in SMOOTH


@contextmanager
def _any_algorithm() -> Iterator[None]:
    """Allow max_unpool2d, for which torch has no algorithm of one fixed order.

    Training allows no other kind (machine/seed.py), and the process may be one that has trained.
    """
    was_fixed = torch.are_deterministic_algorithms_enabled()
    warns_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_fixed, warn_only=warns_only)


def _of_max_pooling(
    pooling: nn.MaxPool2d,
    inputs: Tensor,
    outputs: Tensor,
    _gradient: Tensor,
    of_outputs: Tensor,
    eps: float,
) -> Tensor:
    """Return the multipliers of max pooling, (2 B, C, H, W): pictures, then baselines.

    captum's own rule, except that a pixel which is the largest of several windows gets the sum of
    what they say; captum keeps the last, 40 % of the difference lost with 3 x 3 windows 2 px apart.
    """
    high, low = outputs.chunk(2)
    peak = torch.maximum(high, low)
    # From the baseline up to the peak in the picture's place, down again in the baseline's.
    change = torch.cat([peak - low, high - peak])
    places = inputs.detach().requires_grad_()
    with torch.enable_grad():
        again = functional.max_pool2d(
            places,
            pooling.kernel_size,
            pooling.stride,
            pooling.padding,
            pooling.dilation,
            pooling.ceil_mode,
        )
    (spread,) = torch.autograd.grad(again, places, of_outputs * change)
    moved = sum(spread.chunk(2))
    difference = inputs.chunk(2)[0] - inputs.chunk(2)[1]
    still = difference.abs() < eps
    multipliers = torch.where(still, 0.0, moved / difference.masked_fill(still, 1.0))
    return torch.cat([multipliers, multipliers])


class _Scored(nn.Module):
    """A score as the module that captum wants, with the layers that it hooks."""

    def __init__(self, network: nn.Module, score: Score) -> None:
        super().__init__()
        self.network = network
        self._score = score

    def forward(self, pictures: Tensor) -> Tensor:
        return self._score(pictures)


@contextmanager
def _private_inputs(network: nn.Module) -> Iterator[None]:
    """Give each layer that captum rescales a copy of its input, while it does so.

    captum puts the rescaled gradient in the place of the whole gradient of a layer's input, which
    in a residual block that begins with its activation is the shortcut's as well: without copies
    every identity shortcut of nf_resnet was cut, and an untrained network explained by zeros.
    """
    handles = [
        module.register_forward_pre_hook(lambda _module, inputs: (inputs[0].clone(), *inputs[1:]))
        for module in network.modules()
        if _is_rescaled(module)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _without_traces(network: nn.Module) -> Iterator[None]:
    """Keep captum's notice quiet, and take away what it leaves on layers that it could not use.

    It stores each activation's input and output on the layer and removes them in the backward
    pass: an activation off the path to the score would keep the pictures' features for good.
    """
    before = {module: set(vars(module)) for module in network.modules()}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Setting forward, backward hooks")
            yield
    finally:
        for module, names in before.items():
            for name in set(vars(module)) - names:
                delattr(module, name)
