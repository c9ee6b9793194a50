"""Heads for the signs that clinicians name: the same closed form as a diagnosis, each its own map.

logit(k) = Σ_t p(t, k) · e(t, k), with evidence and gate of the sign's own and never a context part:
a sign is somewhere, or it is not there.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from common.model.evidence import on_grid, per_token


@dataclass(frozen=True)
class Signs:
    """What the concept heads of a task see; K concepts on an h x w grid."""

    evidence: Tensor  # (B, K, h, w)
    gate: Tensor  # (B, K, h, w), sums to 1 over positions

    @property
    def maps(self) -> Tensor:
        """Return the exact additive parts of the concepts' logits, (B, K, h, w)."""
        return self.gate * self.evidence


class ConceptHead(nn.Module):
    """Linear evidence and linear gate per concept.

    Evidence starts at zero and nothing but a label of the concept moves its row: a concept that no
    site has taught keeps a logit of exactly 0 (probability one half) and an empty map, so that it
    cannot be taken for an answer. (Noise for differential privacy moves all rows.)
    """

    def __init__(self, width: int, count: int) -> None:
        """Prepare ``count`` concepts, each a row of both layers."""
        super().__init__()
        self.evidence = nn.Linear(width, count)
        self.gate = nn.Linear(width, count, bias=False)
        nn.init.zeros_(self.evidence.weight)
        nn.init.zeros_(self.evidence.bias)

    def forward(self, *, seen: Tensor, weighed: Tensor, grid: tuple[int, int]) -> Signs:
        """Read evidence from ``seen`` and the gate from ``weighed``, (B, d, h', w') -> (h, w)."""
        scores = on_grid(per_token(self.gate, weighed), grid)
        gate = scores.flatten(2).softmax(dim=2).reshape(scores.shape)
        return Signs(evidence=on_grid(per_token(self.evidence, seen), grid), gate=gate)


def nothing(tokens: Tensor) -> Signs:
    """Return what a task without concepts sees in tokens (B, d, h, w): K = 0."""
    empty = torch.zeros_like(tokens[:, :0])
    return Signs(evidence=empty, gate=empty)
