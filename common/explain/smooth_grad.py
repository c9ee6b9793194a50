"""SmoothGrad: the gradient, averaged over pictures that differ by noise."""

import torch
from captum.attr import NoiseTunnel, Saliency
from torch import Tensor

from common.explain.at_rest import at_rest
from common.explain.own_randomness import own_randomness
from common.explain.saliency import as_saliency
from common.explain.score import Score, score_of
from common.model.network import Network

NOISE_SHARE = 0.1  # of a picture's range; the paper finds 0.1 to 0.2 best
SAMPLES = 32
SAMPLES_AT_ONCE = 16


def smooth_grad(network: Network, images: Tensor, *, task: str, logit: int) -> Tensor:
    """Return where one logit is sensitive to the picture and to its neighbours.

    Smilkov et al. 2017, arXiv:1706.03825, section 3, with captum's noise tunnel: the signed
    gradient is averaged over ``SAMPLES`` noisy pictures, so what the noise turns around cancels;
    then its size is taken and channels are added. Like the gradient it shows sensitivity, be it
    for or against the logit. The noise is the same for every picture and every call.

    Args:
        network: The model.
        images: (B, 3, H, W).
        task: Whose head is asked.
        logit: Which of its logits.

    Returns:
        (B, H, W), >= 0, each summing to 1 (or all zero).
    """
    with at_rest(network):
        slopes = smoothed_slopes_of(score_of(network, task=task, logit=logit), images)
    return as_saliency(slopes.abs().sum(dim=1))


def smoothed_slopes_of(score: Score, images: Tensor) -> Tensor:
    """Return the signed gradient (B, 3, H, W) of a score, averaged over noisy pictures.

    The noise is Gaussian with a deviation of ``NOISE_SHARE`` of each picture's range.
    """
    slopes = torch.zeros_like(images)
    for number, picture in enumerate(images.detach().clone()):
        # One by one: the noise has each picture's own size, and the same numbers for all.
        with own_randomness("smooth-grad", device=images.device):
            slopes[number] = NoiseTunnel(Saliency(score)).attribute(
                picture.unsqueeze(0),
                nt_type="smoothgrad",
                nt_samples=SAMPLES,
                nt_samples_batch_size=SAMPLES_AT_ONCE,
                stdevs=NOISE_SHARE * float(picture.max() - picture.min()),
                abs=False,
            )[0]
    return slopes
