"""LIME: a linear model of what the network does when segments of the picture are painted over."""

from collections.abc import Iterator

import numpy as np
import torch
from captum._utils.models.linear_model import SkLearnLinearModel
from captum.attr import LimeBase
from numpy.typing import NDArray
from skimage.segmentation import slic
from torch import Tensor

from common.explain.at_rest import at_rest
from common.explain.baseline import blurred
from common.explain.own_randomness import own_randomness
from common.explain.saliency import ROUNDING, as_saliency
from common.explain.score import Score, score_of
from common.machine.seed import derive_seed, generator
from common.model.network import Network

SEGMENTS = 64  # about; SLIC makes as many as fit the picture
EVALUATIONS = 256  # of the network per picture, in pairs: a drawing of segments and its opposite
PICTURES_AT_ONCE = 16
COMPACTNESS = 0.3  # of the segments; brightness runs from 0 to 1 in each picture
SMOOTHING_SHARE = 1 / 64  # of the side: segments follow shapes, not grain
KERNEL_WIDTH = 0.25  # of the cosine distance, as in the authors' code for pictures
RIDGE = 0.1  # penalty of the squared weights; the samples' own weights sum to about 70


def lime(network: Network, images: Tensor, *, task: str, logit: int) -> Tensor:
    """Return the segments whose painting over lowers one logit in a linear model of the network.

    Ribeiro, Singh and Guestrin 2016, arXiv:1602.04938, equation 1, with captum's sampling,
    scikit-image's SLIC superpixels (Achanta et al. 2012,
    https://doi.org/10.1109/TPAMI.2012.120) and scikit-learn's ridge regression. The paint is the
    blurred picture. The drawings are the same for every picture and every call.

    Args:
        network: The model.
        images: (B, 3, H, W), H = W.
        task: Whose head is asked.
        logit: Which of its logits.

    Returns:
        (B, H, W), >= 0, each summing to 1: each segment's positive weight, spread evenly over its
        pixels; all zero where no weight is more than rounding. Costs ``EVALUATIONS`` forward
        passes per picture. With other drawings the weights correlate at 0.88 to 0.93 (four
        pictures of noise, 64 px): places of small weight are not to be read closely.
    """
    with at_rest(network), torch.no_grad():
        score = score_of(network, task=task, logit=logit)
        size = score(images).abs().clamp(min=1)  # (B,)
        maps = []
        for picture, paint, whole in zip(images, blurred(images), size, strict=True):
            segments = segments_of(picture)
            weights = weights_of(score, picture, paint=paint, segments=segments)
            weights = weights.where(weights >= ROUNDING * whole, 0.0)
            area = segments.flatten().bincount(minlength=len(weights))
            maps.append((weights / area)[segments])  # (S,) -> (H, W)
        return as_saliency(torch.stack(maps))


def segments_of(picture: Tensor) -> Tensor:
    """Return the number of each pixel's segment, (3, H, W) -> (H, W), from 0 without gaps."""
    channels: NDArray[np.float64] = picture.detach().cpu().double().numpy().transpose(1, 2, 0)
    spread = channels.max() - channels.min()
    # Without contrast SLIC would divide by zero; the segments are then a grid.
    scaled = (channels - channels.min()) / spread if spread > 0 else np.zeros_like(channels)
    found = slic(
        scaled,
        n_segments=SEGMENTS,
        compactness=COMPACTNESS,
        sigma=SMOOTHING_SHARE * scaled.shape[0],
        convert2lab=False,  # stains and X-rays are no sRGB photographs, and values are normalised
        start_label=0,
        channel_axis=-1,
    )
    _, numbered = np.unique(found, return_inverse=True)
    return torch.from_numpy(numbered.reshape(found.shape)).to(picture.device)


def weights_of(
    score: Score,
    picture: Tensor,
    *,
    paint: Tensor,
    segments: Tensor,
    evaluations: int = EVALUATIONS,
) -> Tensor:
    """Return how much the score rises with each segment in a linear model around the picture.

    Args:
        score: Pictures (B, 3, H, W) to (B,).
        picture: (3, H, W).
        paint: (3, H, W), shown where a segment is off.
        segments: (H, W) numbers from 0.
        evaluations: Of ``score``; at least twice the number of segments tells them apart.

    Returns:
        (S,) weights of the ridge regression, in the score's unit.
    """
    regression = SkLearnLinearModel("linear_model.Ridge", alpha=RIDGE)
    sampler = LimeBase(
        score,
        regression,
        similarity_func=_nearness,
        perturb_func=_drawings,
        perturb_interpretable_space=True,
        from_interp_rep_transform=_painted,
        to_interp_rep_transform=None,
    )
    with own_randomness("lime", device=picture.device):  # captum's data loader draws a seed
        weights: Tensor = sampler.attribute(
            picture.unsqueeze(0),
            n_samples=evaluations,
            perturbations_per_eval=PICTURES_AT_ONCE,
            paint=paint,
            segments=segments,
        )
    return weights.flatten().to(picture)


def _drawings(picture: Tensor, *, segments: Tensor, **_named: object) -> Iterator[Tensor]:
    """Yield which segments are on, (1, S) of 0 and 1, each on half of the time.

    In pairs of opposites: what a drawing and its opposite have in common, every segment on as
    often as off, does not have to average out.
    """
    count = int(segments.max()) + 1
    chance = generator(derive_seed(0, "explain", "lime"))
    while True:
        drawn = torch.randint(2, (1, count), generator=chance).to(picture)
        yield drawn
        yield 1 - drawn


def _painted(
    drawn: Tensor, picture: Tensor, *, paint: Tensor, segments: Tensor, **_named: object
) -> Tensor:
    shown = drawn[0][segments]  # (H, W)
    return shown * picture + (1 - shown) * paint


def _nearness(
    _picture: Tensor, _painted_picture: Tensor, drawn: Tensor, **_named: object
) -> Tensor:
    """Return the weight of a sample: exp(-D² / width²), D the cosine distance from "all on"."""
    distance = 1 - drawn.mean().sqrt()  # of 0 and 1 against ones: cosine = √(share that is on)
    return torch.exp(-(distance**2) / KERNEL_WIDTH**2)
