"""What a run does to protect patients: noise at the sites, and a sum that hides each site's part.

A hospital's policy bounds all of it: these are a coordinator's wishes.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Unit = Literal["patient", "image"]  # whose presence in the training part stays in doubt

Positive = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class PrivacyConfig(BaseModel):
    """Differential privacy by DP-SGD at every site; nothing in it is counted from data."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    enabled: bool
    unit: Unit
    noise_multiplier: Positive  # standard deviation of the noise, in clip norms
    clip_norm: Positive  # L2, of one unit's gradient
    sample_rate: Rate  # chance of each unit to be in a step, independent of all others
    steps_per_round: Count
    expected_units: Count  # the noised sum of gradients is divided by this constant
    max_pictures_per_patient: Count  # in one step; of more, so many are drawn
    delta: Annotated[float, Field(gt=0, lt=1)]  # at which a run's epsilon is stated
    per_sample_gradients: Literal["auto", "loop", "hooks", "functorch"]


class SecureAggregationConfig(BaseModel):
    """Updates are summed under masks: nobody but a site sees its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    enabled: bool
    min_group: Annotated[int, Field(ge=3)]  # sites in a sum; with fewer it is not opened
    clip_norm: Positive  # L2, of a site's whole update: a larger one is scaled down to it
    max_examples: Count  # a site's pictures weigh at most so much
