"""Occlusion: how much the logit drops when a place is painted over with its surroundings."""

import torch
from captum.attr import Occlusion
from torch import Tensor

from common.explain.at_rest import at_rest
from common.explain.baseline import blurred
from common.explain.saliency import ROUNDING, as_saliency
from common.explain.score import score_of
from common.model.network import Network

WINDOWS_PER_SIDE = 8  # the painted square is an eighth of the picture's side


def occlusion(network: Network, images: Tensor, *, task: str, logit: int) -> Tensor:
    """Return where painting over a square of the picture lowers one logit.

    The paint is the blurred picture itself: a grey square would be a new object of its own.
    This looks at the model from outside, so evidence that is routed between places shows.
    Zeiler and Fergus 2014, arXiv:1311.2901, with captum's sliding window.

    Args:
        network: The model.
        images: (B, 3, H, W), H = W.
        task: Whose head is asked.
        logit: Which of its logits.

    Returns:
        (B, H, W), >= 0, each summing to 1, constant over each square; all zero where no square
        lowers the logit by more than rounding does.
    """
    window = max(1, images.shape[-1] // WINDOWS_PER_SIDE)
    with at_rest(network), torch.inference_mode():
        score = score_of(network, task=task, logit=logit)
        size = score(images).abs().clamp(min=1)[:, None, None]  # (B, 1, 1)
        drop: Tensor = Occlusion(score).attribute(
            images,
            sliding_window_shapes=(3, window, window),
            strides=(3, window, window),
            baselines=blurred(images),
            perturbations_per_eval=8,
        )
        fall = drop.mean(dim=1)  # (B, 3, H, W) -> (B, H, W)
        # Scaled to sum to 1, rounding alone would look like an explanation.
        fall = fall.where(fall >= ROUNDING * size, 0.0)
        return as_saliency(fall)
