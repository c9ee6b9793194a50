"""The model's own map: the exact additive parts of the logit, from one forward pass."""

import torch
from torch import Tensor

from common.explain.at_rest import at_rest
from common.explain.saliency import as_saliency, at_picture_size
from common.model.network import Network


def evidence(network: Network, images: Tensor, *, task: str, logit: int) -> Tensor:
    """Return the evidence map of one logit at picture size.

    Args:
        network: The model.
        images: (B, 3, H, W).
        task: Whose head is asked.
        logit: Which of its logits.

    Returns:
        (B, H, W), >= 0, each summing to 1 (or all zero): positive parts p(t)·e(t, c) of the
        logit, each token's share spread over the pixels of its cell by bilinear interpolation.
    """
    with at_rest(network), torch.inference_mode():
        parts = network(images, task=task).maps[:, logit]  # (B, T, h, w) -> (B, h, w)
        return as_saliency(at_picture_size(parts.clamp(min=0), images))
