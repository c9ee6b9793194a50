"""What one round of private training costs, as it follows from the run's configuration alone."""

from typing import Annotated, Literal

from pydantic import Field

from common.config.privacy import Unit
from common.config.run import RunConfig, Section

Mechanism = Literal["poisson-subsampled-gaussian"]  # DP-SGD, Abadi et al. 2016, arXiv:1607.00133


class Spending(Section):
    """A mechanism as often as it was, or is to be, run on the training part."""

    mechanism: Mechanism
    unit: Unit
    noise_multiplier: Annotated[float, Field(gt=0)]
    sample_rate: Annotated[float, Field(gt=0, le=1)]
    steps: Annotated[int, Field(ge=1)]


def round_spending(config: RunConfig) -> Spending | None:
    """Return what one round of a run spends, None where its updates carry no noise."""
    privacy = config.privacy
    if not privacy.enabled:
        return None
    return Spending(
        mechanism="poisson-subsampled-gaussian",
        unit=privacy.unit,
        noise_multiplier=privacy.noise_multiplier,
        sample_rate=privacy.sample_rate,
        steps=privacy.steps_per_round,
    )
