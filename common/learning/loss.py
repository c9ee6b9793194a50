"""The training loss: classification, coherent attention, evidence that agrees with the ROI, signs.

L = L_cls + λ_att · L_att + λ_sal · L_sal + λ_con · L_con. Every part is a mean over pictures of a
term that depends on one picture only, so that per-sample gradients (and with them differential
privacy) are well defined: no part is divided by anything counted in the batch.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from common.config.loss import LossConfig
from common.datasets.sample import Batch
from common.errors import ConfigError
from common.model.network import Output
from common.registry import unknown_name
from common.tasks import Task

_EPSILON = 1e-6  # keeps energy ratios finite when a map is empty


@dataclass(frozen=True)
class LossParts:
    """The loss and its parts before weighting; scalars, or (B,) from :func:`sample_losses`."""

    total: Tensor
    classification: Tensor
    attention: Tensor
    saliency: Tensor
    concept: Tensor


def total_loss(output: Output, batch: Batch, *, task: Task, config: LossConfig) -> LossParts:
    """Return the mean over the batch. Raises ConfigError when a weight of the task is missing."""
    parts = sample_losses(output, batch, task=task, config=config)
    return LossParts(
        total=parts.total.mean(),
        classification=parts.classification.mean(),
        attention=parts.attention.mean(),
        saliency=parts.saliency.mean(),
        concept=parts.concept.mean(),
    )


def sample_losses(output: Output, batch: Batch, *, task: Task, config: LossConfig) -> LossParts:
    """Return each picture's loss and its parts, (B,) each."""
    classification = classification_loss(
        output.class_logits, batch.target, task=task, weights=_class_weights(task, config)
    )
    zero = torch.zeros_like(classification)
    attention = (
        attention_loss(
            output.attention, output.attention_grid, entropy_weight=config.entropy_weight
        )
        if config.lambda_att > 0
        else zero
    )
    saliency = (
        saliency_loss(
            output.gate * functional.softplus(output.evidence),
            batch,
            overlap_weight=config.overlap_weight,
            coverage_threshold=config.coverage_threshold,
        )
        / _expected_roi_fraction(task, config)
        if config.lambda_sal > 0
        else zero
    )
    concept = (
        concept_loss(output, batch, config=config)
        if config.lambda_con > 0 and output.concept_logits.shape[1] * batch.concept_target.shape[1]
        else zero
    )
    return LossParts(
        total=classification
        + config.lambda_att * attention
        + config.lambda_sal * saliency
        + config.lambda_con * concept,
        classification=classification,
        attention=attention,
        saliency=saliency,
        concept=concept,
    )


def classification_loss(
    class_logits: Tensor, target: Tensor, *, task: Task, weights: tuple[float, ...]
) -> Tensor:
    """Binary cross-entropy per picture, (B, C) logits and (B, T) targets -> (B,).

    A grade is C = G - 1 questions "grade ≥ k" (cumulative links). Positives are weighted;
    unknown targets (NaN) add nothing, and the divisor is C whether known or not.
    """
    if task.kind == "ordinal":
        steps = torch.arange(1, class_logits.shape[1] + 1, device=target.device)
        answers = torch.where(target.isnan(), target, (target >= steps).to(target.dtype))
    else:
        answers = target
    known = ~answers.isnan()
    terms = functional.binary_cross_entropy_with_logits(
        class_logits,
        answers.nan_to_num(0.0),
        pos_weight=torch.tensor(weights, device=class_logits.device, dtype=class_logits.dtype),
        reduction="none",
    )
    return torch.where(known, terms, 0.0).mean(dim=1)


def concept_loss(output: Output, batch: Batch, *, config: LossConfig) -> Tensor:
    """Binary cross-entropy of known concepts and their maps' disagreement with their places, (B,).

    Σ over known concepts of the cross-entropy, over K, the number of the task's concepts whether
    known or not, + λ_sal · the disagreement of :func:`saliency_loss` over the concepts that are
    there and outlined. Exactly zero, with zero gradient, for a picture without a concept label.
    """
    target = batch.concept_target
    terms = functional.binary_cross_entropy_with_logits(
        output.concept_logits, target.nan_to_num(0.0), reduction="none"
    )
    seen = torch.where(target.isnan(), 0.0, terms).mean(dim=1)
    if config.lambda_sal == 0:
        return seen
    roi = roi_weight(batch.concept_coverage, coverage_threshold=config.coverage_threshold)
    placed = _disagreement(
        output.concept_gate * functional.softplus(output.concept_evidence),
        roi,
        counts=target > 0,  # NaN > 0 is False
        overlap_weight=config.overlap_weight,
    )
    return seen + config.lambda_sal * placed


def attention_loss(
    attention: tuple[Tensor, ...], grid: tuple[int, int], *, entropy_weight: float
) -> Tensor:
    """Total variation and entropy of the attention each place receives, per picture, (B,).

    With a the mean over heads and queries of a layer's attention, (B, N), summing to 1:
    mean|∇(N a)| over both axes plus ``entropy_weight`` · H(a) / log N, averaged over layers.
    """
    layers = []
    for weights in attention:
        received = weights.mean(dim=(1, 2))  # (B, heads, N, N) -> (B, N)
        count = received.shape[1]
        picture = count * received.reshape(-1, *grid)
        variation = _mean_step(picture, dim=1) + _mean_step(picture, dim=2)
        entropy = torch.special.entr(received).sum(dim=1) / math.log(max(count, 2))
        layers.append(variation + entropy_weight * entropy)
    return torch.stack(layers).mean(dim=0)


def saliency_loss(
    saliency: Tensor, batch: Batch, *, overlap_weight: float, coverage_threshold: float
) -> Tensor:
    """Disagreement of the positive evidence with the ROI, per picture, (B, T, h, w) -> (B,).

    Per logit, with S ≥ 0 the saliency and r the ROI's weight per cell:
    [1 - Σ S r / (Σ S + 1e-6)] + overlap_weight · [1 - 2 Σ s r / (Σ s + Σ r)], s = S / max S;
    the mean over the picture's logits whose target is positive and whose ROI is known. The
    energy term is that of Rao et al. 2023, https://arxiv.org/abs/2303.11932, section 3.3; the
    overlap keeps it from collapsing into one cell. Exactly zero, with zero gradient, for a
    picture without such a logit.
    """
    roi = roi_weight(batch.roi_coverage, coverage_threshold=coverage_threshold)
    counts = batch.has_roi & (batch.target > 0)  # NaN > 0 is False
    return _disagreement(saliency, roi, counts=counts, overlap_weight=overlap_weight)


def _disagreement(
    saliency: Tensor, weight: Tensor, *, counts: Tensor, overlap_weight: float
) -> Tensor:
    """Return the mean over a picture's maps that count of both terms, (B, T, h, w) -> (B,).

    ``counts``, (B, T), says which maps count, where their region has any weight at all.
    """
    roi = weight.flatten(2)
    counts = counts & (roi.sum(dim=2) > 0)
    energy = saliency.flatten(2)  # (B, T, N)
    outside = 1 - (energy * roi).sum(dim=2) / (energy.sum(dim=2) + _EPSILON)
    relative = energy / (energy.amax(dim=2, keepdim=True) + _EPSILON)
    overlap = 2 * (relative * roi).sum(dim=2) / (relative.sum(dim=2) + roi.sum(dim=2) + _EPSILON)
    terms = torch.where(counts, outside + overlap_weight * (1 - overlap), 0.0)
    return terms.sum(dim=1) / counts.sum(dim=1).clamp(min=1)


def roi_weight(coverage: Tensor, *, coverage_threshold: float) -> Tensor:
    """Return each cell's weight in [0, 1] from its ROI coverage, (B, T, h, w).

    Cells covered by ``coverage_threshold`` or more count fully, others in proportion; where no
    cell is covered that much the best covered one counts fully, so a lesion of a few pixels is
    not rounded away.
    """
    best = coverage.amax(dim=(2, 3), keepdim=True)
    # The clamp's floor only keeps 0 / 0 away where nothing is covered.
    full_from = best.clamp(max=coverage_threshold).clamp(min=1e-12)
    return (coverage / full_from).clamp(max=1.0)


def _mean_step(picture: Tensor, *, dim: int) -> Tensor:
    """Return the mean absolute step between neighbours along one axis, (B, h, w) -> (B,)."""
    if picture.shape[dim] < 2:
        return picture.new_zeros(picture.shape[0])
    return picture.diff(dim=dim).abs().mean(dim=(1, 2))


def _class_weights(task: Task, config: LossConfig) -> tuple[float, ...]:
    if task.name not in config.class_weights:
        raise ConfigError(
            unknown_name("task in loss.class_weights", task.name, config.class_weights)
        )
    weights = config.class_weights[task.name]
    for name in task.class_names:
        if name not in weights:
            raise ConfigError(
                unknown_name(f"class in loss.class_weights.{task.name}", name, weights)
            )
    return tuple(weights[name] for name in task.class_names)


def _expected_roi_fraction(task: Task, config: LossConfig) -> float:
    fractions = config.expected_roi_fraction
    if task.name not in fractions:
        raise ConfigError(unknown_name("task in loss.expected_roi_fraction", task.name, fractions))
    return fractions[task.name]
