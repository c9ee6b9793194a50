"""Signed contributions of pixels to a logit, and how far from complete they are."""

from dataclasses import dataclass

from torch import Tensor

from common.explain.saliency import saliency_of_logits

# Logits. A gap is compared with at least this much: where picture and baseline have almost the
# same logit, a share of the difference would ask for more than the difference is worth.
FLOOR = 0.1


@dataclass(frozen=True)
class Attribution:
    """What each pixel and channel adds to the logit of a picture over that of its baseline."""

    values: Tensor  # (B, 3, H, W), logits, signed
    difference: Tensor  # (B,), logit of the picture minus that of its baseline
    gap: Tensor  # (B,), |Σ values - difference| / max(|difference|, FLOOR)

    def saliency(self) -> Tensor:
        """Return the positive part of each pixel's sum over channels, (B, H, W), sum 1 or zero.

        Channels are added before the sign is taken: red for and green against is a pixel that
        says nothing.
        """
        return saliency_of_logits(self.values.sum(dim=1), self.difference)


def attribution_of(values: Tensor, *, difference: Tensor) -> Attribution:
    """Return contributions (B, 3, H, W) of a ``difference`` (B,) of logits with their gap."""
    missing = values.sum(dim=(1, 2, 3)) - difference
    gap = missing.abs() / difference.abs().clamp(min=FLOOR)
    return Attribution(values=values, difference=difference, gap=gap)
