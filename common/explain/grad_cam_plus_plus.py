"""Grad-CAM++ at the encoder's evidence features: rising gradients count, place by place."""

import torch
from captum.attr import LayerActivation, LayerGradientXActivation
from torch import Tensor

from common.explain.at_rest import at_rest
from common.explain.saliency import as_saliency, at_picture_size
from common.explain.score import score_of
from common.model.network import Network


def grad_cam_plus_plus(network: Network, images: Tensor, *, task: str, logit: int) -> Tensor:
    """Return where the channels that raise one logit somewhere are strong.

    Chattopadhyay et al. 2018, arXiv:1710.11063, equation 19, on exp(logit), as the paper does:
    its higher derivatives are then powers of the gradient. That is exact for a network of
    straight pieces and an approximation here, where the gate is a softmax. See Grad-CAM for the
    features that it is taken at, and for what a low value says.

    Args:
        network: The model.
        images: (B, 3, H, W).
        task: Whose head is asked.
        logit: Which of its logits.

    Returns:
        (B, H, W), >= 0, each summing to 1 (or all zero).
    """
    layer = network.trunk.project_evidence
    with at_rest(network):
        score = score_of(network, task=task, logit=logit)
        pictures = images.detach().clone().requires_grad_()  # see grad_cam
        with torch.no_grad():
            features: Tensor = LayerActivation(score, layer).attribute(
                pictures, attribute_to_layer_input=True
            )
        slopes: Tensor = LayerGradientXActivation(score, layer, multiply_by_inputs=False).attribute(
            pictures, attribute_to_layer_input=True
        )
    weights = channel_weights(features.detach(), slopes.detach())
    cells = (weights * features.detach()).sum(dim=1).clamp(min=0)
    return as_saliency(at_picture_size(cells, images))


def channel_weights(features: Tensor, slopes: Tensor) -> Tensor:
    """Return channels' weights (B, C, 1, 1) from features A and gradients g, both (B, C, h, w).

    w = Σ_places α · max(g, 0) with α = g² / (2 g² + g³ · Σ_places A), which is
    1 / (2 + g · Σ A), and 0 where g = 0. The paper's features come from a ReLU; ours may be
    negative, and a negative sum would let the divisor pass through zero. So their positive parts
    are summed, which leaves rectified features as they are.
    """
    mass = features.clamp(min=0).sum(dim=(2, 3), keepdim=True)
    rising = slopes.clamp(min=0)
    return (rising / (2 + rising * mass)).sum(dim=(2, 3), keepdim=True)
