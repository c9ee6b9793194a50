"""The settings of the training loss; every key must be given."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]
PositiveWeight = Annotated[float, Field(gt=0)]


class LossConfig(BaseModel):
    """Weights of the loss's parts; 0 turns a part off."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    lambda_att: NotNegative  # weight of the attention's spatial coherence
    lambda_sal: NotNegative  # weight of the evidence's agreement with the ROI
    lambda_con: NotNegative  # weight of the concepts' loss where their labels are known
    overlap_weight: NotNegative  # of (1 - soft Dice) within the saliency part
    entropy_weight: NotNegative  # of the normalised entropy within the attention part
    coverage_threshold: Share  # ROI share of a token cell from which on it counts fully
    expected_roi_fraction: dict[str, Share]  # task -> expected share of pictures with a lesion ROI
    class_weights: dict[str, dict[str, PositiveWeight]]  # task -> class name -> weight of positives
