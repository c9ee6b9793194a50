"""One batch as the loss sees it."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Pictures with targets and regions on the network's token grid."""

    image: Tensor  # (B, 3, H, W) float32, roughly zero mean and unit deviation
    target: Tensor  # (B, T) float32, NaN where unknown
    roi_coverage: Tensor  # (B, T, h, w) share of each token cell that the lesion ROI covers, [0, 1]
    has_roi: Tensor  # (B, T) bool: a lesion ROI exists for this picture and logit
    concept_target: Tensor  # (B, K) float32: 1 there, 0 absent, NaN unknown; K = 0: all unknown
    concept_coverage: Tensor  # (B, K, h, w) share of each cell that shows the concept, [0, 1]

    def __len__(self) -> int:
        """Return the number of pictures."""
        return int(self.image.shape[0])
