"""The whole network: one trunk for all tasks, one head per task."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.config.model import ModelConfig
from common.errors import ModelError
from common.machine.seed import derive_seed
from common.model.concepts import ConceptHead, nothing
from common.model.encoder import Encoder
from common.model.evidence import EvidenceHead, Thresholds
from common.model.locality import Locality, leak, require_local
from common.model.transformer import Transformer, at_least_single
from common.model.weights import WeightsKind, kind_of, load_weights
from common.registry import unknown_name
from common.tasks import TASKS, Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Output:
    """Logits of one task with the parts they are made of; T logits on an h x w grid."""

    logits: Tensor  # (B, T) = maps.sum((2, 3)) + context
    maps: Tensor  # (B, T, h, w) = gate * evidence, the exact additive parts
    evidence: Tensor  # (B, T, h, w)
    gate: Tensor  # (B, T, h, w), sums to 1 over positions
    context: Tensor  # (B, T), 0 where the task lists no context for the logit
    attention: tuple[Tensor, ...]  # per layer (B, heads, N, N), rows sum to 1
    attention_grid: tuple[int, int]  # N = rows * columns
    class_logits: Tensor  # (B, C) one per task.class_names; severity - θ_k for ordinal tasks
    thresholds: Tensor | None  # (G - 1,) strictly increasing, detached; ordinal tasks only
    concept_logits: Tensor  # (B, K) = concept_maps.sum((2, 3)); K = 0 where concepts are off
    concept_maps: Tensor  # (B, K, h, w) = gate * evidence of each concept, the exact parts
    concept_evidence: Tensor  # (B, K, h, w)
    concept_gate: Tensor  # (B, K, h, w), sums to 1 over positions
    pooled: Tensor  # (B, d) mean local token, detached; what novelty is judged by


class Trunk(nn.Module):
    """What all tasks share: the CNN, the two projections, the transformer."""

    def __init__(self, config: ModelConfig, *, shift_px: int) -> None:
        """Build it. Raises ModelError when strides do not fit the token grid."""
        super().__init__()
        self.encoder = Encoder(config.encoder, shift_px=shift_px)
        token_px = config.encoder.token_stride_px
        self._evidence_factor = _factor(self.encoder.evidence_stride_px, token_px, "evidence_stage")
        deep_px = self.encoder.deep_stride_px
        self._deep_factor = (
            1 if deep_px % token_px == 0 else _factor(deep_px, token_px, "transformer_stage")
        )
        self.project_evidence = nn.Conv2d(self.encoder.evidence_channels, config.width, 1)
        self.project_deep = nn.Conv2d(self.encoder.deep_channels, config.width, 1)
        self.transformer = Transformer(config.width, config.transformer)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return local tokens (B, d, h, w), transformer tokens (B, d, h', w') and attention."""
        features, deep = self.encoder(images)
        local = functional.gelu(self.project_evidence(features))
        local = functional.avg_pool2d(local, self._evidence_factor)
        deep = functional.avg_pool2d(self.project_deep(deep), self._deep_factor)
        grid = (deep.shape[2], deep.shape[3])
        tokens, attention = self.transformer(deep.flatten(2).transpose(1, 2), grid)
        return local, tokens.transpose(1, 2).unflatten(2, grid), attention


class TaskHead(nn.Module):
    """One task's evidence head, with ordered thresholds if its target is a grade.

    ``concepts`` is built apart, after everything else and with a seed of its own, so that all
    other weights are the same with it and without.
    """

    def __init__(self, task: Task, width: int, context_labels: tuple[str, ...]) -> None:
        """Build it. Raises ModelError for context labels the task does not have."""
        super().__init__()
        for label in context_labels:
            if label not in task.logit_names:
                known = dict.fromkeys(task.logit_names)
                raise ModelError(unknown_name(f"context label of task {task.name}", label, known))
        self.parts = EvidenceHead(width, task.logit_names, context_labels)
        self.thresholds = Thresholds(len(task.class_names)) if task.kind == "ordinal" else None
        self.concepts: ConceptHead | None = None


class Network(nn.Module):
    """The network of a run; parameters are named ``trunk.*`` or ``heads.<task>.*``."""

    def __init__(self, config: ModelConfig, tasks: Mapping[str, Task], locality: Locality) -> None:
        """Use :func:`build_network`, which seeds, checks locality and loads weights."""
        super().__init__()
        self.config = config
        self.tasks = dict(tasks)
        self.locality = locality
        self.trunk = Trunk(config, shift_px=locality.shift_px)
        self.heads = nn.ModuleDict()

    def grid(self, image_size_px: int) -> tuple[int, int]:
        """Return rows and columns of the maps. Raises ModelError if tokens do not fit."""
        token_px = self.config.encoder.token_stride_px
        coarse_px = max(token_px, self.trunk.encoder.deep_stride_px)
        if image_size_px <= 0 or image_size_px % coarse_px:
            raise ModelError(
                f"pictures of {image_size_px} px cannot be cut into tokens: the side must be a "
                f"multiple of {coarse_px} px."
            )
        return (image_size_px // token_px, image_size_px // token_px)

    def forward(self, images: Tensor, *, task: str) -> Output:
        """Explain and predict one task for pictures (B, 3, H, W), roughly of zero mean.

        Raises ModelError for a task without a head or a side that tokens do not fit.
        """
        if task not in self.heads:
            raise ModelError(unknown_name("head for task", task, dict.fromkeys(self.heads)))
        for side_px in images.shape[2:]:
            self.grid(side_px)
        local, whole, attention = self.trunk(images)
        head = cast(TaskHead, self.heads[task])
        # Sums over hundreds of tokens: half precision would break their additivity.
        with torch.autocast(device_type=images.device.type, enabled=False):
            local, whole = at_least_single(local), at_least_single(whole)
            parts = head.parts(
                seen=local if self.config.evidence_from == "cnn" else whole,
                weighed=local if self.config.gate_from == "local" else whole,
                whole=whole,
                grid=(local.shape[2], local.shape[3]),
            )
            signs = (
                nothing(local)
                if head.concepts is None
                else head.concepts(
                    seen=local,
                    weighed=local if self.config.gate_from == "local" else whole,
                    grid=(local.shape[2], local.shape[3]),
                )
            )
            maps = parts.gate * parts.evidence
            logits = maps.sum(dim=(2, 3)) + parts.context
            class_logits = logits if head.thresholds is None else head.thresholds(logits)
        return Output(
            logits=logits,
            maps=maps,
            evidence=parts.evidence,
            gate=parts.gate,
            context=parts.context,
            attention=attention,
            attention_grid=(int(whole.shape[2]), int(whole.shape[3])),
            class_logits=class_logits,
            thresholds=None if head.thresholds is None else head.thresholds.values().detach(),
            concept_logits=signs.maps.sum(dim=(2, 3)),
            concept_maps=signs.maps,
            concept_evidence=signs.evidence,
            concept_gate=signs.gate,
            pooled=local.detach().mean(dim=(2, 3)),
        )


def build_network(config: ModelConfig, tasks: Mapping[str, Task], *, seed: int) -> Network:
    """Build a network that is the same for the same configuration, tasks and seed.

    The trunk does not depend on the tasks, nor a head on the other heads. The global random
    state is left as it was. Raises ModelError for an encoder that cannot be built, that leaks
    without being allowed to, and for weights that do not fit.
    """
    locality = require_local(config.encoder, image_size_px=config.image_size_px)
    complaint = leak(config.encoder, locality)
    if complaint is not None:
        log.warning(complaint, extra={"action": "leaky_encoder", "encoder": config.encoder.name})
    for name in config.context_labels:
        if name not in tasks and name not in TASKS:
            raise ModelError(unknown_name("task in context_labels", name, dict.fromkeys(tasks)))
    for name in config.concepts:
        if name not in tasks and name not in TASKS:
            raise ModelError(unknown_name("task in concepts", name, dict.fromkeys(tasks)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "trunk"))
        network = Network(config, tasks, locality)
        for name, task in tasks.items():
            torch.manual_seed(derive_seed(seed, "head", name))
            network.heads[name] = TaskHead(task, config.width, config.context_labels.get(name, ()))
        for name, task in tasks.items():
            if config.concepts.get(name) and task.concepts:
                torch.manual_seed(derive_seed(seed, "concepts", name))
                head = cast(TaskHead, network.heads[name])
                head.concepts = ConceptHead(config.width, len(task.concepts))
    weights = config.encoder.pretrained
    if isinstance(weights, str) and kind_of(weights) is WeightsKind.NETWORK:
        load_weights(network, weights, heads_may_differ=True)
    return network


def probabilities(logits: Tensor, *, task: Task, thresholds: Tensor | None) -> Tensor:
    """Return one probability per class name, (B, T) -> (B, C).

    For ordinal tasks P(grade ≥ k) = sigmoid(severity - θ_k), falling with k. Raises ModelError
    when an ordinal task comes without thresholds.
    """
    if task.kind != "ordinal":
        return logits.sigmoid()
    if thresholds is None:
        raise ModelError(f"task {task.name} is ordinal: give the thresholds of its head.")
    return (logits - thresholds).sigmoid()


def grade_probabilities(logits: Tensor, *, thresholds: Tensor) -> Tensor:
    """Return the probability of each grade, (B, 1) -> (B, G), rows summing to 1."""
    at_least = (logits - thresholds).sigmoid()  # (B, G - 1)
    one = torch.ones_like(at_least[:, :1])
    padded = torch.cat([one, at_least, torch.zeros_like(one)], dim=1)
    return padded[:, :-1] - padded[:, 1:]


def _factor(stride_px: int, token_px: int, key: str) -> int:
    if token_px % stride_px:
        raise ModelError(
            f"encoder.{key} has a stride of {stride_px} px, which does not divide "
            f"token_stride_px {token_px}. Choose another stage or token size."
        )
    return token_px // stride_px
