"""Which signs go with which answers of a model, on the part ``calibration``."""

import numpy as np

from common.metrics.association import association, is_settled
from common.package.known import FEWEST_CALIBRATION_PATIENTS
from common.package.responses import Responses
from common.tasks import Task


def concept_association(responses: Responses, *, task: Task) -> dict[str, dict[str, float]]:
    """Return Spearman's correlation of each concept with each logit: concept → logit name.

    A concept that does not vary, as nobody has taught it, is left out, and so is a correlation that
    chance could have brought about (:func:`common.metrics.association.is_settled`): of 20 patients
    every second or third pair without any connection exceeds 0.2. There is none from fewer than
    ``FEWEST_CALIBRATION_PATIENTS`` patients or a diverged model.
    """
    concepts = responses.concept_logits
    if responses.num_patients < FEWEST_CALIBRATION_PATIENTS or not responses.is_finite():
        return {}
    found = association(concepts, responses.logits)
    named = {
        concept: {
            logit: float(value)
            for logit, value in zip(task.logit_names, row, strict=True)
            if np.isfinite(value) and is_settled(float(value), patients=responses.num_patients)
        }
        # No rows where the network has no concept head.
        for concept, row in zip(task.concepts, found, strict=False)
    }
    return {concept: values for concept, values in named.items() if values}
