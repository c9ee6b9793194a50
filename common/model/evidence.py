"""One task's head: what is seen at each place, how much the place counts, and the context.

logit(c) = Σ_t p(t, c) · e(t, c) + context(c). The parts p · e are the map: they are not an
approximation of the logit but its summands.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Evidence:
    """The parts of a task's logits; T logits on an h x w grid."""

    evidence: Tensor  # (B, T, h, w)
    gate: Tensor  # (B, T, h, w), sums to 1 over positions
    context: Tensor  # (B, T)


class Thresholds(nn.Module):
    """Ordered thresholds of a severity: θ_1 < θ_2 < …, by construction.

    Cumulative link model, McCullagh 1980, https://doi.org/10.1111/j.2517-6161.1980.tb01109.x:
    P(grade ≥ k) = sigmoid(severity - θ_k).
    """

    def __init__(self, count: int) -> None:
        """Start ``count`` thresholds one unit apart and centred at zero."""
        super().__init__()
        self.first = nn.Parameter(torch.full((1,), -(count - 1) / 2))
        # softplus(0.5413) = 1
        self.gaps = nn.Parameter(torch.full((count - 1,), 0.5413))

    def forward(self, severity: Tensor) -> Tensor:
        """Return severity - θ_k, (B, 1) -> (B, count).

        The thresholds meet the batch in here, and not in the loss, because per-sample gradients
        are taken module by module.
        """
        return severity - self.values()

    def values(self) -> Tensor:
        """Return the thresholds, (count,), strictly increasing."""
        # A gap below float resolution would make two grades one.
        steps = functional.softplus(self.gaps) + 1e-3
        return torch.cat([self.first, self.first + steps.cumsum(dim=0)])


class EvidenceHead(nn.Module):
    """Linear evidence, linear gate without bias (softmax ignores one), optional linear context."""

    def __init__(self, width: int, logits: Sequence[str], context_logits: Sequence[str]) -> None:
        """Prepare one row per logit; ``context_logits`` names those with a context part."""
        super().__init__()
        self.evidence = nn.Linear(width, len(logits))
        self.gate = nn.Linear(width, len(logits), bias=False)
        self.context = nn.Linear(width, len(context_logits), bias=False) if context_logits else None
        rows = torch.zeros(len(context_logits), len(logits))
        for row, name in enumerate(context_logits):
            rows[row, list(logits).index(name)] = 1.0
        self.register_buffer("context_rows", rows, persistent=False)

    def forward(
        self, *, seen: Tensor, weighed: Tensor, whole: Tensor, grid: tuple[int, int]
    ) -> Evidence:
        """Read evidence from ``seen``, the gate from ``weighed``, the context from ``whole``.

        All are token pictures (B, d, h', w') and may be coarser than ``grid``, (h, w).
        """
        evidence = per_token(self.evidence, seen)
        scores = on_grid(per_token(self.gate, weighed), grid)
        gate = scores.flatten(2).softmax(dim=2).reshape(scores.shape)
        context = (
            whole.new_zeros(whole.shape[0], evidence.shape[1])
            if self.context is None
            else self.context(whole.mean(dim=(2, 3))) @ self.get_buffer("context_rows")
        )
        return Evidence(evidence=on_grid(evidence, grid), gate=gate, context=context)


def per_token(layer: nn.Module, tokens: Tensor) -> Tensor:
    """Apply a linear layer at every position, (B, d, h, w) -> (B, T, h, w)."""
    out: Tensor = layer(tokens.permute(0, 2, 3, 1))
    return out.permute(0, 3, 1, 2)


def on_grid(values: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return values (B, T, h', w') on a grid (h, w), bilinear where it is finer."""
    if tuple(values.shape[-2:]) == grid:
        return values
    return functional.interpolate(values, size=grid, mode="bilinear", align_corners=False)
