"""Weights survive a round trip and misfits are named."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from common.config.model import ModelConfig
from common.errors import ModelError
from common.model.arrays import array_names, read_arrays
from common.model.network import Network, build_network
from common.model.weights import load_weights
from common.tasks import TASKS, task_named

Configured = Callable[..., ModelConfig]


def equal(first: Network, second: Network, prefix: str = "") -> bool:
    theirs = second.state_dict()
    return all(
        torch.equal(value, theirs[name])
        for name, value in first.state_dict().items()
        if name.startswith(prefix)
    )


def save_weights(network: nn.Module, path: str | Path) -> None:
    state = network.state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, path)


def test_safetensors_round_trip_is_exact(configured: Configured, tmp_path: Path) -> None:
    trained = build_network(configured("tiny"), TASKS, seed=1)
    other = build_network(configured("tiny"), TASKS, seed=2)

    save_weights(trained, tmp_path / "model.safetensors")
    load_weights(other, tmp_path / "model.safetensors")

    assert equal(trained, other)


def test_pretrained_network_file_fills_trunk_and_shared_heads(
    configured: Configured, tmp_path: Path
) -> None:
    path = str(tmp_path / "model.safetensors")
    trained = build_network(configured("tiny"), {"retina": TASKS["retina"]}, seed=1)
    save_weights(trained, path)

    started = build_network(configured("tiny", encoder={"pretrained": path}), TASKS, seed=2)

    assert equal(trained, started)


def test_pretrained_encoder_file_fills_the_encoder_alone(
    configured: Configured, tmp_path: Path
) -> None:
    timm = pytest.importorskip("timm")
    config = configured("tiny")
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in config.encoder.options.items()}
    encoder = timm.create_model("nf_resnet26", num_classes=10, **options)
    save_file(encoder.state_dict(), tmp_path / "encoder.safetensors")
    path = str(tmp_path / "encoder.safetensors")

    network = build_network(configured("tiny", encoder={"pretrained": path}), TASKS, seed=2)

    ours = network.state_dict()
    assert torch.equal(ours["trunk.encoder.net.stem_conv.weight"], encoder.stem.conv.weight)
    assert torch.equal(
        ours["trunk.encoder.net.stages_1.0.conv2.weight"], encoder.stages[1][0].conv2.weight
    )


def test_weights_of_other_labels_are_refused_by_name(
    configured: Configured, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(build_network(configured("tiny"), TASKS, seed=1), path)
    fewer = {"chestx": task_named("chestx", ("Mass", "Nodule"))}

    with pytest.raises(ModelError, match=r"heads\.chestx\.parts\.evidence\.bias is \(14,\), exp"):
        load_weights(build_network(configured("tiny"), fewer, seed=1), path, heads_may_differ=True)


def test_exchanged_arrays_alone_fill_a_network_with_batch_normalisation(
    configured: Configured, tmp_path: Path
) -> None:
    batchnorm = {"name": "resnet18", "options": {}, "evidence_stage": 2, "allow_leaky": True}
    config = configured("tiny", encoder=batchnorm)
    trained, other = (
        build_network(config, {"retina": TASKS["retina"]}, seed=seed) for seed in (1, 2)
    )
    names = array_names(trained)
    assert set(names) < set(trained.state_dict())  # the batch counters do not travel
    arrays = {name: torch.from_numpy(v) for name, v in read_arrays(trained, names).items()}
    save_file(arrays, tmp_path / "model.safetensors")

    load_weights(other, tmp_path / "model.safetensors")

    assert equal(trained, other)


def test_missing_tensors_are_named(configured: Configured, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(build_network(configured("tiny"), {"retina": TASKS["retina"]}, seed=1), path)

    with pytest.raises(ModelError, match=r"heads\.chestx\..* is missing"):
        load_weights(build_network(configured("tiny"), TASKS, seed=1), path)


def test_missing_or_foreign_files_are_refused(configured: Configured, tmp_path: Path) -> None:
    pickled = tmp_path / "weights.pt"
    torch.save({"a": torch.zeros(1)}, pickled)
    for path, words in ((tmp_path / "none.safetensors", "does not exist"), (pickled, "is not a")):
        config = configured("tiny", encoder={"pretrained": str(path)})
        with pytest.raises(ModelError, match=words):
            build_network(config, TASKS, seed=0)
