"""A transformer encoder whose attention is computed openly, so that its maps can be returned.

Fused attention hides the maps and has no second derivative; here softmax(q kᵀ / √d_h) is spelled
out (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, equation 1), with normalisation before
each part. Only linear layers and per-token LayerNorm carry parameters, nothing works in place, so
that per-sample gradients are exact.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.config.model import TransformerConfig


def at_least_single(values: Tensor) -> Tensor:
    """Return values in single precision, or in double if they were."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class PositionalEncoding(nn.Module):
    """Adds fixed 2-D sines and cosines, so that any grid size can be used with the same weights."""

    def __init__(self, width: int) -> None:
        """Prepare ``width`` channels (a multiple of 4): half for rows, half for columns."""
        super().__init__()
        frequencies = 10_000.0 ** -(torch.arange(width // 4) / (width // 4))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return tokens (B, N, d) plus their position, N = rows x columns of the grid."""
        rows = self._waves(grid[0])[:, None].expand(-1, grid[1], -1)
        columns = self._waves(grid[1])[None].expand(grid[0], -1, -1)
        positions = torch.cat([rows, columns], dim=2).reshape(1, grid[0] * grid[1], -1)
        return tokens + positions.to(tokens.dtype)

    def _waves(self, length: int) -> Tensor:
        frequencies = self.get_buffer("frequencies")
        angles = torch.arange(length, device=frequencies.device)[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)  # (length, d / 2)


class Attention(nn.Module):
    """Multi-head self-attention that returns its weights."""

    def __init__(self, width: int, heads: int) -> None:
        """Split ``width`` channels over ``heads``."""
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return new tokens (B, N, d) and attention (B, heads, N, N) whose rows sum to 1."""
        batch, count, width = tokens.shape
        packed = self.query_key_value(tokens).reshape(batch, count, 3, self.heads, -1)
        query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, N, d_h)
        scores = query @ key.transpose(-2, -1) / math.sqrt(width // self.heads)
        attention = at_least_single(scores).softmax(dim=-1)
        mixed = attention.to(value.dtype) @ value  # (B, heads, N, d_h)
        return self.out(mixed.transpose(1, 2).reshape(batch, count, width)), attention


class Block(nn.Module):
    """Attention and a two-layer perceptron, each added to what came in."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        """Size the perceptron's hidden layer as ``mlp_ratio`` times the width."""
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_mlp = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return new tokens (B, N, d) and the attention (B, heads, N, N)."""
        mixed, attention = self.attention(self.norm_attention(tokens))
        tokens = tokens + mixed
        hidden = functional.gelu(self.expand(self.norm_mlp(tokens)))
        return tokens + self.contract(hidden), attention


class Transformer(nn.Module):
    """Position, ``layers`` blocks, and a last normalisation."""

    def __init__(self, width: int, config: TransformerConfig) -> None:
        """Build the blocks."""
        super().__init__()
        self.positions = PositionalEncoding(width)
        self.blocks = nn.ModuleList(
            Block(width, config.heads, config.mlp_ratio) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return tokens (B, N, d) that have seen the whole picture and each layer's attention."""
        tokens = self.positions(tokens, grid)
        attention: list[Tensor] = []
        for block in self.blocks:
            tokens, weights = block(tokens)
            attention.append(weights)
        return self.norm(tokens), tuple(attention)
