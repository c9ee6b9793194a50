"""The model's own map: the exact additive parts of the logit, from one forward pass."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from common.explain.saliency import as_saliency
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
    with torch.inference_mode():
        parts = network(images, task=task).maps[:, logit]  # (B, T, h, w) -> (B, h, w)
        size = (images.shape[-2], images.shape[-1])
        spread = interpolate(parts.clamp(min=0).unsqueeze(1), size=size, mode="bilinear")
        return as_saliency(spread.squeeze(1))
