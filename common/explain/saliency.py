"""From any attribution to a saliency map: what speaks for the logit, as shares of one."""

from torch import Tensor
from torch.nn.functional import interpolate

# Of the logit, at least of 1: a smaller change is the arithmetic's, not the picture's.
ROUNDING = 1e-5


def as_saliency(attribution: Tensor) -> Tensor:
    """Keep the positive part of an attribution (B, H, W) and scale each map to sum 1.

    A map without a positive part stays zero: nothing in the picture speaks for the logit.
    """
    positive = attribution.clamp(min=0)
    total = positive.sum(dim=(1, 2), keepdim=True)
    return positive / total.where(total > 0, 1.0)


def saliency_of_logits(attribution: Tensor, logits: Tensor) -> Tensor:
    """Do the same with an attribution (B, H, W) in logits, of the logits (B,) or differences.

    A map whose positive part adds up to no more than rounding is zero: scaled to sum 1, rounding
    alone would look like an explanation.
    """
    total = attribution.clamp(min=0).sum(dim=(1, 2))
    speaks = total > ROUNDING * logits.abs().clamp(min=1)
    return as_saliency(attribution.where(speaks[:, None, None], 0.0))


def at_picture_size(cells: Tensor, images: Tensor) -> Tensor:
    """Spread values of cells (B, h, w) over the pixels of pictures (B, 3, H, W) -> (B, H, W).

    Bilinear between the centres of cells.
    """
    size = (images.shape[-2], images.shape[-1])
    return interpolate(cells.unsqueeze(1), size=size, mode="bilinear").squeeze(1)
