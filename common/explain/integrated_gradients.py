"""Integrated gradients: the logit's way from a blurred picture to the picture, pixel by pixel."""

import torch
from captum.attr import IntegratedGradients
from torch import Tensor

from common.errors import ExplanationError
from common.explain.at_rest import at_rest
from common.explain.attribution import FLOOR, Attribution, attribution_of
from common.explain.baseline import blurred
from common.explain.score import Score, score_of
from common.model.network import Network

TOLERANCE = 0.05  # largest gap, see Attribution.gap
FIRST_STEPS = 16  # nodes of Gauss-Legendre quadrature, doubled until the gap is small
MOST_STEPS = 256
PICTURES_AT_ONCE = 16  # in one forward and backward pass: what a small machine's memory holds


def integrated_gradients(network: Network, images: Tensor, *, task: str, logit: int) -> Tensor:
    """Return which pixels raise one logit above that of the blurred picture.

    Sundararajan, Taly and Yan 2017, arXiv:1703.01365, equation 1, with captum; completeness
    (their proposition 1) is asserted, see :func:`attribute`.

    Args:
        network: The model.
        images: (B, 3, H, W), H = W.
        task: Whose head is asked.
        logit: Which of its logits.

    Returns:
        (B, H, W), >= 0, each summing to 1 (or all zero).

    Raises:
        ExplanationError: where the sum over pixels stays away from the logit's difference.
    """
    return attribute(network, images, task=task, logit=logit).saliency()


def attribute(
    network: Network, images: Tensor, *, task: str, logit: int, baseline: Tensor | None = None
) -> Attribution:
    """Return signed contributions (B, 3, H, W) to the logit, with a gap of at most ``TOLERANCE``.

    ``baseline`` (B, 3, H, W) or (3, H, W) is where the path starts; without one, the blurred
    picture (see :mod:`common.explain.baseline`). Costs ``FIRST_STEPS`` forward and backward passes
    per picture (the gap was below .01 on phantoms of 256 px, both shipped encoders), and twice as
    many again for pictures whose gap is too large, up to ``2 * MOST_STEPS`` in all.

    Raises ExplanationError when ``MOST_STEPS`` steps are not enough.
    """
    with at_rest(network):
        score = score_of(network, task=task, logit=logit)
        start = blurred(images) if baseline is None else baseline.expand_as(images)
        return along_path(score, images, start)[1]


def along_path(score: Score, images: Tensor, start: Tensor) -> tuple[Tensor, Attribution]:
    """Follow the straight path from ``start`` to ``images``, both (B, 3, H, W).

    Returns the mean gradient along it, (B, 3, H, W) in logits per unit of brightness, and the
    attribution: mean gradient times the difference of the pictures. Every picture takes as many
    steps as it needs, whoever is beside it in the batch.

    Raises ExplanationError where a gap exceeds ``TOLERANCE`` after ``MOST_STEPS`` steps.
    """
    pictures = images.detach().clone()  # a tensor of inference mode could carry no gradient
    start = start.detach().clone()
    with torch.no_grad():
        difference = score(pictures) - score(start)
    gradient = torch.zeros_like(pictures)
    captum = IntegratedGradients(score, multiply_by_inputs=False)
    attribution = attribution_of(gradient, difference=difference)
    unfinished, steps = torch.arange(len(pictures), device=pictures.device), FIRST_STEPS
    while len(unfinished):
        if steps > MOST_STEPS:
            raise ExplanationError(_incomplete(attribution, unfinished))
        for part in torch.split(unfinished, PICTURES_AT_ONCE):
            gradient[part] = captum.attribute(
                pictures[part],
                baselines=start[part],
                n_steps=steps,
                method="gausslegendre",
                internal_batch_size=PICTURES_AT_ONCE,
            ).to(gradient.dtype)
        attribution = attribution_of(gradient * (pictures - start), difference=difference)
        # "Not at most" rather than "more than": a gap that is not a number is no success.
        unfinished = unfinished[~(attribution.gap[unfinished] <= TOLERANCE)]
        steps *= 2
    return gradient, attribution


def _incomplete(attribution: Attribution, unfinished: Tensor) -> str:
    worst = int(unfinished[attribution.gap[unfinished].nan_to_num(torch.inf).argmax()])
    total = float(attribution.values[worst].sum())
    return (
        f"integrated gradients of picture {worst} add up to {total:.3g} where the logit differs "
        f"from the baseline's by {float(attribution.difference[worst]):.3g}: a gap of "
        f"{float(attribution.gap[worst]):.0%} of the difference (or of {FLOOR} logits where it is "
        f"smaller) after {MOST_STEPS} steps, allowed are {TOLERANCE:.0%}. The logit jumps on the "
        "way. Take a baseline that resembles a picture (blurred, the set's mean; not zero), or "
        "explain with occlusion."
    )
