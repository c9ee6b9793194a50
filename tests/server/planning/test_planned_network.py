"""What is found wrong with a run before pictures are read or any site hears of it."""

from pathlib import Path

import pytest
import torch

from common.config.reading import load_config
from common.config.run import RunConfig
from common.errors import ConfigError, ModelError
from server.planning.planned_network import planned_network

PRIVATE = Path("configs/experiments/private.yaml")
SECURE = Path("configs/experiments/secure.yaml")


def config_of(path: Path, *overrides: str) -> RunConfig:
    small = ("model.image_size_px=64", "data.image_size_px=64")
    return load_config(path, (*small, *overrides)).run


@pytest.mark.parametrize("path", [PRIVATE, SECURE], ids=lambda path: path.stem)
def test_the_examples_can_be_trained_as_they_are(path: Path) -> None:
    assert next(planned_network(config_of(path)).parameters()).device == torch.device("cpu")


@pytest.mark.parametrize(
    ("path", "setting", "message"),
    [
        (PRIVATE, "federation.aggregation=weighted-mean", "to uniform-mean"),
        (SECURE, "federation.aggregation=median", "it must see each site's update"),
        (SECURE, "federation.update_precision=int8", "to float32"),
        (SECURE, "secure_aggregation.min_group=10", "the run has 9 sites"),
        (SECURE, "federation.strategy=fedavgg", "Did you mean 'fedavg'?"),
        (SECURE, "federation.local_layers=[nothing.]", "no array's name starts with 'nothing.'"),
    ],
)
def test_settings_that_do_not_go_together_are_named(path: Path, setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        planned_network(config_of(path, setting))


def test_a_network_that_mixes_pictures_is_not_trained_with_noise() -> None:
    # Batch normalisation: what one picture does to another's gradient, no noise would hide.
    mixing = ("model.encoder.name=resnet10t", "model.encoder.options={}")
    leaky = (*mixing, "model.encoder.allow_leaky=true")
    planned_network(config_of(PRIVATE, *leaky, "privacy.enabled=false"))
    with pytest.raises(ModelError, match="statistics over pictures"):
        planned_network(config_of(PRIVATE, *leaky))
