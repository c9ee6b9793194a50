"""Occlusion: how much the logit drops when a place is painted over with its surroundings."""

import torch
from captum.attr import Occlusion
from torch import Tensor

from common import torchvision_ops  # noqa: F401 - must come before torchvision
from common.explain.saliency import as_saliency
from common.model.network import Network, Output

from torchvision.transforms.v2.functional import gaussian_blur  # isort: skip

WINDOWS_PER_SIDE = 8  # the painted square is an eighth of the picture's side
ROUNDING = (
    1e-5  # of the logit, at least of 1: a smaller fall is the arithmetic's, not the picture's
)
BLUR_SHARE = 0.125  # standard deviation of the paint's blur, as a share of the side


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
    side = images.shape[-1]
    window = max(1, side // WINDOWS_PER_SIDE)
    sigma = BLUR_SHARE * side
    kernel = 2 * round(2 * sigma) + 1

    def logit_of(pictures: Tensor) -> Tensor:
        output: Output = network(pictures, task=task)
        return output.logits[:, logit]

    with torch.inference_mode():
        size = logit_of(images).abs().clamp(min=1)[:, None, None]  # (B, 1, 1)
        paint = gaussian_blur(images, kernel_size=[kernel, kernel], sigma=[sigma, sigma])
        drop: Tensor = Occlusion(logit_of).attribute(
            images,
            sliding_window_shapes=(3, window, window),
            strides=(3, window, window),
            baselines=paint,
            perturbations_per_eval=8,
        )
        fall = drop.mean(dim=1)  # (B, 3, H, W) -> (B, H, W)
        # Scaled to sum to 1, rounding alone would look like an explanation.
        fall = fall.where(fall >= ROUNDING * size, 0.0)
    return as_saliency(fall)
