"""Trains one variant of the study with the project's own network and loss."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from pydantic import JsonValue, ValidationError

from common.config.loss import LossConfig
from common.config.model import ModelConfig
from common.datasets.sample import Batch
from common.errors import ConfigError
from common.learning.loss import total_loss
from common.machine.seed import derive_seed
from common.model.network import Network, build_network
from common.studies.looks_config import SaliencyConfig, ScenarioConfig, VariantConfig
from common.studies.looks_measures import colour
from common.studies.looks_phantom import Phantoms, cell_coverage, make_phantoms
from common.tasks import Task

TASK = Task(
    name="looks",
    title="Lesion in a texture",
    kind="binary",
    labels=("absent", "lesion"),
    horizontal_flip=False,
    vertical_flip=False,
    channels=1,
    lesion_roi_kinds=("lesion_mask",),
    anatomy_roi_kinds=(),
)


@dataclass(frozen=True)
class Trained:
    """A network after its last step."""

    network: Network
    last_loss: float  # mean classification part of the last tenth of the steps
    step_ms: float  # median


def phantoms_of(scenario: ScenarioConfig, *, seed: int) -> tuple[Phantoms, Phantoms]:
    """Return training and test pictures of a scenario; they share no random numbers."""
    phantom = scenario.phantom
    return (
        make_phantoms(
            phantom,
            count=phantom.train_count,
            marker_agreement=phantom.train_marker_agreement,
            seed=derive_seed(seed, "train"),
        ),
        make_phantoms(
            phantom,
            count=phantom.test_count,
            marker_agreement=phantom.test_marker_agreement,
            seed=derive_seed(seed, "test"),
        ),
    )


def model_of(scenario: ScenarioConfig, variant: VariantConfig) -> ModelConfig:
    """Return the scenario's model with the variant's changes. Raises ConfigError."""
    values = yaml.safe_load(Path(scenario.model).read_text(encoding="utf-8"))["model"]
    for changes in (scenario.changes, variant.model):
        values = _merged(values, changes)
    try:
        return ModelConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"model of scenario {scenario.title!r}: {error}") from error


def train_variant(
    scenario: ScenarioConfig,
    variant: VariantConfig,
    shared: SaliencyConfig,
    *,
    train: Phantoms,
    seed: int,
) -> Trained:
    """Train on pictures in an order and from weights that depend on the seed alone."""
    training = scenario.training
    network = build_network(model_of(scenario, variant), {TASK.name: TASK}, seed=seed).train()
    loss_config = _loss_of(scenario, variant, shared)
    draw = torch.Generator().manual_seed(derive_seed(seed, "order"))
    coverage = cell_coverage(train.lesion, network.grid(scenario.phantom.side_px))
    has_roi = (train.label > 0) & (
        torch.rand(len(train.label), generator=draw) < scenario.phantom.roi_share
    )
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=training.learning_rate,
        total_steps=training.steps,
        pct_start=training.warmup_share,
    )
    losses, times_s = [], []
    for chosen in _batches(len(train.label), training.steps, training.batch_size, draw):
        start = time.perf_counter()
        batch = Batch(
            image=colour(train.images[chosen]),
            target=train.label[chosen, None],
            roi_coverage=coverage[chosen],
            has_roi=has_roi[chosen, None],
            # Its task has no signs beside the lesion.
            concept_target=train.label.new_zeros(len(chosen), 0),
            concept_coverage=coverage.new_zeros(len(chosen), 0, *coverage.shape[2:]),
        )
        output = network(batch.image, task=TASK.name)
        parts = total_loss(output, batch, task=TASK, config=loss_config)
        optimiser.zero_grad()
        parts.total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), training.clip_norm)
        optimiser.step()
        schedule.step()
        losses.append(float(parts.classification.detach()))
        times_s.append(time.perf_counter() - start)
    tail = losses[-max(1, len(losses) // 10) :]
    median_s = sorted(times_s)[len(times_s) // 2]
    return Trained(network=network, last_loss=sum(tail) / len(tail), step_ms=1000 * median_s)


def _loss_of(
    scenario: ScenarioConfig, variant: VariantConfig, shared: SaliencyConfig
) -> LossConfig:
    return LossConfig(
        lambda_att=variant.lambda_att,
        lambda_sal=variant.lambda_sal,
        lambda_con=0.0,
        overlap_weight=shared.overlap_weight,
        entropy_weight=shared.entropy_weight,
        coverage_threshold=shared.coverage_threshold,
        # Half of the pictures are positive.
        expected_roi_fraction={TASK.name: scenario.phantom.roi_share / 2},
        class_weights={TASK.name: dict.fromkeys(TASK.class_names, 1.0)},
    )


def _batches(count: int, steps: int, batch_size: int, draw: torch.Generator) -> list[torch.Tensor]:
    """Return the indices of each step: one shuffled pass over the pictures after another."""
    passes = -(-steps * batch_size // count)
    order = torch.cat([torch.randperm(count, generator=draw) for _ in range(passes)])
    return list(torch.split(order, batch_size))[:steps]


def _merged(base: dict[str, JsonValue], changes: dict[str, JsonValue]) -> dict[str, JsonValue]:
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict) and key != "options":
            merged[key] = _merged(below, value)
        else:
            merged[key] = value
    return merged
