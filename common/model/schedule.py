"""The learning rate over a whole run: linear warm-up, then a cosine down to a fraction."""

import math


def steps_per_round(num_examples: int, *, batch_size: int, epochs: int) -> int:
    """Return a site's optimiser steps of one round; the last batch may be smaller."""
    return epochs * math.ceil(num_examples / batch_size)


def learning_rate_factor(
    step: int, *, total_steps: int, warmup_fraction: float, final_fraction: float
) -> float:
    """Return the factor in [final_fraction, 1] on the peak learning rate at a step from 0.

    Linear from 1/warm-up steps, then half a cosine that reaches ``final_fraction`` at the last
    step (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5, one period).
    """
    warmup_steps = round(warmup_fraction * total_steps)
    if step < warmup_steps:
        return max((step + 1) / warmup_steps, final_fraction)
    # A site that grew after the plan was made takes more steps: it stays at the final rate.
    last = max(total_steps - 1 - warmup_steps, 1)
    progress = min((step - warmup_steps) / last, 1.0)
    return final_fraction + (1.0 - final_fraction) * 0.5 * (1.0 + math.cos(math.pi * progress))
