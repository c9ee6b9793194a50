"""From any attribution to a saliency map: what speaks for the logit, as shares of one."""

from torch import Tensor


def as_saliency(attribution: Tensor) -> Tensor:
    """Keep the positive part of an attribution (B, H, W) and scale each map to sum 1.

    A map without a positive part stays zero: nothing in the picture speaks for the logit.
    """
    positive = attribution.clamp(min=0)
    total = positive.sum(dim=(1, 2), keepdim=True)
    return positive / total.where(total > 0, 1.0)
