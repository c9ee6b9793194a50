"""The comparison that stands before every private training, and what it refuses."""

from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from common.config.model import ModelConfig
from common.config.run import RunConfig
from common.errors import ModelError
from common.learning.loss import sample_losses
from common.model.network import Network, build_network
from common.private.check import (
    complaint_about,
    random_batch,
    require_exact_gradients,
    require_separate_pictures,
)
from common.private.gradients import METHODS, Method
from common.tasks import Task

MODELS = Path(__file__).parents[3] / "configs" / "models"
SMALL = "trunk.encoder.net.stages_1.downsample.1.weight"


def network_of(size: str, config: RunConfig) -> Network:
    text = (MODELS / f"{size}.yaml").read_text(encoding="utf-8")
    model = ModelConfig.model_validate(yaml.safe_load(text)["model"])
    return build_network(model, config.task_table(), seed=0)


def asking_for(config: RunConfig, method: str) -> RunConfig:
    privacy = config.privacy.model_copy(update={"per_sample_gradients": method})
    return config.model_copy(update={"privacy": privacy})


@pytest.mark.parametrize("name", ["chestx", "retina", "pathoscan"])
@pytest.mark.parametrize("method", list(METHODS))
def test_every_parameter_of_the_tiny_network_gets_its_gradient(
    network: Network, config: RunConfig, name: str, method: Method
) -> None:
    task = config.task(name)

    assert complaint_about(network, method, task=task, loss=config.loss, image_size_px=64) is None


def test_functorch_is_exact_for_the_small_network(config: RunConfig) -> None:
    network = network_of("small", config)

    complaint = complaint_about(
        network, "functorch", task=config.task("chestx"), loss=config.loss, image_size_px=64
    )

    assert complaint is None


def test_hooks_are_wrong_for_convnext_and_are_refused_with_the_remedy(config: RunConfig) -> None:
    network = network_of("small", config)

    with pytest.raises(ModelError, match=SMALL) as refusal:
        require_exact_gradients(
            network, task=config.task("chestx"), config=asking_for(config, "hooks")
        )

    assert "auto or loop" in str(refusal.value)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["hooks", "functorch"])
def test_every_parameter_of_the_base_network_gets_its_gradient(
    config: RunConfig, method: Method
) -> None:
    network = network_of("base", config)

    complaint = complaint_about(
        network, method, task=config.task("chestx"), loss=config.loss, image_size_px=64
    )

    assert complaint is None


def test_light_networks_use_functorch_on_a_cpu_and_heavy_ones_the_loop(
    network: Network, config: RunConfig
) -> None:
    task, auto = config.task("chestx"), asking_for(config, "auto")
    large = config.data.model_copy(update={"image_size_px": 256})

    assert require_exact_gradients(network, task=task, config=auto) == "functorch"
    heavy = network_of("small", config)
    heavy_run = auto.model_copy(update={"data": large})
    assert require_exact_gradients(heavy, task=task, config=heavy_run) == "loop"


class Shortened(torch.autograd.Function):
    """The identity; its gradient is scaled by the number of pictures in the batch."""

    @staticmethod
    def forward(ctx: object, values: torch.Tensor) -> torch.Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
        return gradient / len(gradient)


class Halving(nn.Module):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        shortened: torch.Tensor = Shortened.apply(values)
        return shortened


def test_auto_passes_over_methods_that_are_wrong(network: Network, config: RunConfig) -> None:
    # Not a rule of Opacus, and not one that torch.func may transform.
    network.trunk.transformer.norm = nn.Sequential(network.trunk.transformer.norm, Halving())
    task = config.task("chestx")

    assert require_exact_gradients(network, task=task, config=asking_for(config, "auto")) == "loop"
    for method in ("hooks", "functorch"):
        with pytest.raises(ModelError, match=f"{method}: "):
            require_exact_gradients(network, task=task, config=asking_for(config, method))


def test_a_layer_that_keeps_statistics_is_named(network: Network, config: RunConfig) -> None:
    network.trunk.project_deep = nn.Sequential(network.trunk.project_deep, nn.BatchNorm2d(64))

    with pytest.raises(ModelError, match=r"trunk.project_deep.1 is a BatchNorm2d.*normalises"):
        require_exact_gradients(network, task=config.task("chestx"), config=config)


@pytest.mark.parametrize(
    "layer",
    [nn.BatchNorm1d(4, track_running_stats=False), nn.InstanceNorm1d(4, track_running_stats=True)],
)
def test_layers_that_mix_or_remember_pictures_are_refused(layer: nn.Module) -> None:
    with pytest.raises(ModelError, match=type(layer).__name__):
        require_separate_pictures(nn.Sequential(nn.Linear(2, 4), layer))


def test_layers_that_normalise_each_picture_by_itself_are_allowed() -> None:
    require_separate_pictures(
        nn.Sequential(nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.InstanceNorm1d(4))
    )


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        self.seen += values.shape[0]
        return values


def test_a_buffer_that_changes_in_training_is_refused(network: Network, config: RunConfig) -> None:
    network.trunk.project_deep = nn.Sequential(network.trunk.project_deep, Counting())

    with pytest.raises(ModelError, match=r"trunk.project_deep.1.seen"):
        require_exact_gradients(
            network, task=config.task("chestx"), config=asking_for(config, "loop")
        )


def test_dropout_does_not_disturb_the_comparison(network: Network, config: RunConfig) -> None:
    network.trunk.project_deep = nn.Sequential(network.trunk.project_deep, nn.Dropout(0.5))

    complaint = complaint_about(
        network, "functorch", task=config.task("chestx"), loss=config.loss, image_size_px=64
    )

    assert complaint is None
    assert network.training  # the comparison works on a copy


@pytest.mark.parametrize("name", ["chestx", "retina", "pathoscan"])
def test_every_part_of_the_loss_is_compared(network: Network, config: RunConfig, name: str) -> None:
    task: Task = config.task(name)
    batch = random_batch(network, task=task, image_size_px=64)

    parts = sample_losses(network(batch.image, task=name), batch, task=task, config=config.loss)

    assert len(batch) == 2
    assert parts.attention.min() > 0
    assert parts.classification.min() > 0
    if task.num_logits > 1 or task.kind == "ordinal":
        assert parts.saliency.min() > 0
    assert parts.saliency.max() > 0
