"""Attention rollout: from which places the transformer gathered what the logit reads from it."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from common.errors import ExplanationError
from common.explain.at_rest import at_rest
from common.explain.saliency import as_saliency, at_picture_size
from common.model.network import Network, Output


def rollout(network: Network, images: Tensor, *, task: str, logit: int) -> Tensor:
    """Return the places whose tokens flow into the transformer tokens that raise one logit.

    Abnar and Zuidema 2020, arXiv:2005.00928, equation 1: attention of the layers, heads averaged,
    half of every token kept as itself, multiplied through. A transformer token counts by what the
    logit reads from it in its own favour: the positive part of gate times evidence in its cell,
    and its even share of a positive context.

    What it can show: where a gate, or context, may have come from. What it cannot: the evidence
    itself is read from the local token and never passes through attention (unless the model reads
    it there); attention is taken for flow, so sizes and signs of values and the perceptrons
    between do not count; and half of every token is itself by definition, so the map follows the
    model's own where attention is even. It is no proof of what the logit depends on.

    Args:
        network: The model.
        images: (B, 3, H, W).
        task: Whose head is asked.
        logit: Which of its logits.

    Returns:
        (B, H, W), >= 0, each summing to 1 (or all zero).

    Raises:
        ExplanationError: if nothing of this logit is read from the transformer.
    """
    with at_rest(network), torch.no_grad():
        output: Output = network(images, task=task)
        read = _read_in_favour(network, output, task=task, logit=logit)  # (B, h', w')
        flow = rolled_out(output.attention, tokens=read[0].numel())
        cells = (read.flatten(1).unsqueeze(1) @ flow.to(read.dtype)).reshape(read.shape)
        return as_saliency(at_picture_size(cells, images))


def rolled_out(attention: Sequence[Tensor], *, tokens: int) -> Tensor:
    """Return the share of each first token in each last one, (B, N, N); every row sums to 1.

    ``attention`` holds (B, heads, N, N) per layer, the first layer first; without a layer, every
    token is its own.
    """
    flow = torch.eye(tokens, device=attention[0].device if attention else None).unsqueeze(0)
    for weights in attention:
        mixed = weights.mean(dim=1)  # (B, N, N)
        kept = torch.eye(tokens, device=mixed.device, dtype=mixed.dtype)
        flow = (0.5 * mixed + 0.5 * kept) @ flow.to(mixed.dtype)
    return flow


def _read_in_favour(network: Network, output: Output, *, task: str, logit: int) -> Tensor:
    """Return what the logit reads in its favour from each transformer token, (B, h', w')."""
    config = network.config
    name = network.tasks[task].logit_names[logit]
    through_map = config.evidence_from == "transformer" or config.gate_from == "transformer"
    if not through_map and name not in config.context_labels.get(task, ()):
        raise ExplanationError(
            f"attention rollout has nothing to say about {name} ({task}): evidence and gate are "
            "read from local tokens and it has no context part, so no attention reaches its "
            "logit. Use another method."
        )
    rows, columns = output.attention_grid
    read = (output.context[:, logit].clamp(min=0) / (rows * columns))[:, None, None]
    read = read.expand(-1, rows, columns)
    if through_map:
        parts = output.maps[:, logit].clamp(min=0)
        # Sums over the cells that one transformer token stands for; sides divide each other.
        cells_each = parts[0].numel() / (rows * columns)
        read = read + cells_each * adaptive_avg_pool2d(parts.unsqueeze(1), (rows, columns))[:, 0]
    return read
