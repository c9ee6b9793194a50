"""GradientSHAP: integrated gradients over many noisy paths from more than one baseline."""

import torch
from captum.attr import GradientShap
from torch import Tensor

from common.explain.at_rest import at_rest
from common.explain.attribution import Attribution, attribution_of
from common.explain.baseline import blurred, mean_colour
from common.explain.own_randomness import own_randomness
from common.explain.score import Score, score_of
from common.model.network import Network

NOISE_SHARE = 0.05  # of a picture's range
SAMPLES = 64
SAMPLES_AT_ONCE = 16


def gradient_shap(network: Network, images: Tensor, *, task: str, logit: int) -> Tensor:
    """Return which pixels raise one logit, in expectation over baselines and noise.

    Expected gradients (Erion et al. 2021, arXiv:1906.10670) with noise on the picture, as in
    captum: each of ``SAMPLES`` draws takes one baseline, one point on the way from it and one
    noise. An estimate: its gap is measured, not asserted, see :func:`attribute`. The draws are the
    same for every picture and every call.

    Args:
        network: The model.
        images: (B, 3, H, W), H = W.
        task: Whose head is asked.
        logit: Which of its logits.

    Returns:
        (B, H, W), >= 0, each summing to 1 (or all zero).
    """
    return attribute(network, images, task=task, logit=logit).saliency()


def attribute(
    network: Network, images: Tensor, *, task: str, logit: int, baselines: Tensor | None = None
) -> Attribution:
    """Return signed contributions (B, 3, H, W) to the logit, with their gap.

    ``baselines`` (N, 3, H, W) are drawn alike for every picture; without any, each picture's own
    blurred form and its own mean colour are. The difference is the picture's logit minus the
    mean of the baselines'.
    """
    with at_rest(network):
        return expected_gradients(score_of(network, task=task, logit=logit), images, baselines)


def expected_gradients(score: Score, images: Tensor, baselines: Tensor | None) -> Attribution:
    """Do the same for any score of pictures."""
    pictures = images.detach().clone()
    values, difference = torch.zeros_like(pictures), pictures.new_zeros(len(pictures))
    starts = None if baselines is None else baselines.detach().clone()
    paths = torch.stack([blurred(pictures), mean_colour(pictures)], dim=1)  # (B, 2, 3, H, W)
    for number, picture in enumerate(pictures):
        chosen = paths[number] if starts is None else starts
        with torch.no_grad():
            difference[number] = (score(picture.unsqueeze(0)) - score(chosen).mean())[0]
        # One by one: the noise has each picture's own size, and the same numbers for all.
        with own_randomness("gradient-shap", device=images.device):
            for _ in range(SAMPLES // SAMPLES_AT_ONCE):
                values[number] += GradientShap(score).attribute(
                    picture.unsqueeze(0),
                    baselines=chosen,
                    n_samples=SAMPLES_AT_ONCE,
                    stdevs=NOISE_SHARE * float(picture.max() - picture.min()),
                )[0]
    return attribution_of(values / (SAMPLES // SAMPLES_AT_ONCE), difference=difference)
