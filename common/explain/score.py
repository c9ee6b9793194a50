"""One logit of one task as a function of pictures: what explanation methods differentiate."""

from collections.abc import Callable

from torch import Tensor

from common.model.network import Network, Output

Score = Callable[[Tensor], Tensor]  # pictures (B, 3, H, W) -> (B,)


def score_of(network: Network, *, task: str, logit: int) -> Score:
    """Return the function from pictures (B, 3, H, W) to one logit (B,)."""

    def score(pictures: Tensor) -> Tensor:
        output: Output = network(pictures, task=task)
        return output.logits[:, logit]

    return score
