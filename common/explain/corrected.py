"""Gradient methods corrected for noise off the data, each to be compared with its plain form.

Smoothing of the plain gradient is SmoothGrad, and GradientSHAP smooths by its own noise; here are
the other pairs. What either correction is worth is a matter of measuring: see
:mod:`common.explain.off_data`.
"""

import torch
from torch import Tensor

from common.explain.at_rest import at_rest
from common.explain.attribution import Attribution, attribution_of
from common.explain.baseline import blurred
from common.explain.gradient import slopes_of
from common.explain.gradient_shap import expected_gradients
from common.explain.integrated_gradients import along_path
from common.explain.off_data import Projection, projected, slow_waves
from common.explain.saliency import as_saliency
from common.explain.score import Score, score_of
from common.machine.seed import derive_seed, generator
from common.model.network import Network

NOISE_SHARE = 0.05  # of a picture's range
SAMPLES = 4  # paths, each with steps of its own


def gradient_projected(network: Network, images: Tensor, *, task: str, logit: int) -> Tensor:
    """Return the plain gradient's map with the gradient projected on slow waves.

    Arguments, shape and range as for the gradient; (B, H, W), >= 0, sum 1 or zero.
    """
    with at_rest(network):
        slopes = slopes_of(projected(score_of(network, task=task, logit=logit), slow_waves), images)
    return as_saliency(slopes.abs().sum(dim=1))


def integrated_gradients_smoothed(
    network: Network, images: Tensor, *, task: str, logit: int
) -> Tensor:
    """Return integrated gradients averaged over ``SAMPLES`` noisy pictures.

    SmoothGrad's noise (Smilkov et al. 2017, arXiv:1706.03825, section 3) on integrated gradients;
    each path is complete. (B, H, W), >= 0, sum 1 or zero.

    Raises ExplanationError where a path is not complete.
    """
    with at_rest(network):
        score = score_of(network, task=task, logit=logit)
        return along_noisy_paths(score, images, blurred(images)).saliency()


def integrated_gradients_projected(
    network: Network, images: Tensor, *, task: str, logit: int
) -> Tensor:
    """Return integrated gradients with the gradient projected on slow waves.

    (B, H, W), >= 0, sum 1 or zero. No longer complete: what is cut off is missing, see
    :func:`attribute_projected`.

    Raises ExplanationError where the path without projection is not complete.
    """
    return attribute_projected(network, images, task=task, logit=logit).saliency()


def attribute_projected(
    network: Network,
    images: Tensor,
    *,
    task: str,
    logit: int,
    projection: Projection = slow_waves,
) -> Attribution:
    """Return projected integrated gradients (B, 3, H, W) in logits, with their gap.

    The gap is the share of the logit's difference that the network drew from directions off the
    data, as the projection has it. Raises ExplanationError as integrated gradients do.
    """
    with at_rest(network):
        start = blurred(images)
        gradient, plain = along_path(score_of(network, task=task, logit=logit), images, start)
        # The mean of projected gradients is the projected mean.
        values = projection(gradient) * (images - start)
    return attribution_of(values, difference=plain.difference)


def gradient_shap_projected(network: Network, images: Tensor, *, task: str, logit: int) -> Tensor:
    """Return GradientSHAP with every gradient projected on slow waves.

    (B, H, W), >= 0, sum 1 or zero.
    """
    with at_rest(network):
        score = projected(score_of(network, task=task, logit=logit), slow_waves)
        return expected_gradients(score, images, None).saliency()


def along_noisy_paths(score: Score, images: Tensor, start: Tensor) -> Attribution:
    """Return the mean of integrated gradients from ``start`` to noisy ``images``, (B, 3, H, W).

    The noise has a deviation of ``NOISE_SHARE`` of each picture's range; its numbers are the same
    for every picture and every call. The difference is the mean over noisy pictures.
    """
    draw = generator(derive_seed(0, "explain", "integrated-gradients-smoothed"))
    size = NOISE_SHARE * (images.amax(dim=(1, 2, 3)) - images.amin(dim=(1, 2, 3)))
    values, difference = torch.zeros_like(images), images.new_zeros(len(images))
    for _ in range(SAMPLES):
        noise = torch.randn(images.shape[1:], generator=draw).to(images)
        noisy = images + size[:, None, None, None] * noise
        _, attribution = along_path(score, noisy, start)
        values += attribution.values / SAMPLES
        difference += attribution.difference / SAMPLES
    return attribution_of(values, difference=difference)
