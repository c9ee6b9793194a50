"""Which numbers a site may measure, by name, as it follows from a run's configuration alone.

Sites that are summed must agree on every place of the vector, also where one has nothing to put.
"""

from common.config.run import RunConfig
from common.metrics.binary import METRICS
from common.metrics.grading import GRADE_METRICS
from common.metrics.localisation import ABOVE_CHANCE, LOCALISATION_METRICS

# Of common.learning.loss.LossParts.
LOSS_PARTS = ("total", "classification", "attention", "saliency", "concept")
LOSS_PREFIX = "loss_"  # of a loss part, among the metrics of an evaluation

SHARE_BOUND = 1.0  # every metric but a loss lies between −1 and 1
LOSS_BOUND = 100.0  # a larger loss counts as this one


def metric_names(config: RunConfig, task: str) -> tuple[str, ...]:
    """Return every name that an evaluation of a task may hold, in order."""
    grades = GRADE_METRICS if config.task(task).kind == "ordinal" else ()
    above = tuple(name + ABOVE_CHANCE for name in LOCALISATION_METRICS)
    losses = tuple(LOSS_PREFIX + part for part in LOSS_PARTS)
    return tuple(sorted((*METRICS, *grades, *LOCALISATION_METRICS, *above, *losses)))


def metric_bound(name: str) -> float:
    """Return the size to which a metric of an evaluation is clipped."""
    return LOSS_BOUND if name.startswith(LOSS_PREFIX) else SHARE_BOUND
