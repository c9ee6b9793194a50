"""The plain gradient: how strongly each pixel moves the logit, for an endless small change."""

import torch
from captum.attr import Saliency
from torch import Tensor

from common.explain.at_rest import at_rest
from common.explain.saliency import as_saliency
from common.explain.score import Score, score_of
from common.model.network import Network

PICTURES_AT_ONCE = 16


def gradient(network: Network, images: Tensor, *, task: str, logit: int) -> Tensor:
    """Return where one logit is most sensitive to the picture.

    Simonyan et al. 2013, arXiv:1312.6034, section 3, with captum: the size of the gradient,
    channels added. Sensitive is not the same as in favour: a place that speaks against the logit
    shows as well. Noisy; here as what SmoothGrad and projection are compared with.

    Args:
        network: The model.
        images: (B, 3, H, W).
        task: Whose head is asked.
        logit: Which of its logits.

    Returns:
        (B, H, W), >= 0, each summing to 1 (or all zero).
    """
    with at_rest(network):
        slopes = slopes_of(score_of(network, task=task, logit=logit), images)
    return as_saliency(slopes.abs().sum(dim=1))


def slopes_of(score: Score, images: Tensor) -> Tensor:
    """Return the signed gradient of a score with respect to pictures (B, 3, H, W), same shape."""
    slopes = images.detach().clone()
    for part in torch.split(slopes, PICTURES_AT_ONCE):  # views: filled in place
        found = Saliency(score).attribute(part.clone().requires_grad_(), abs=False)
        part.copy_(found)
    return slopes
