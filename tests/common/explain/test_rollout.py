"""Attention rollout against products of matrices written out with numpy."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from small_network import drawn_pictures, small_network
from torch import Tensor

from common.errors import ExplanationError
from common.explain.rollout import rolled_out, rollout
from common.model.network import Network


def by_hand(attention: tuple[Tensor, ...], picture: int) -> NDArray[np.float64]:
    """(N, N): the last layer's rows, the first layer's columns."""
    count = attention[0].shape[-1]
    flow = np.eye(count)
    for weights in attention:
        heads = weights[picture].detach().double().numpy()
        mixed = (sum(heads) / len(heads) + np.eye(count)) / 2
        flow = mixed @ flow
    return flow


def over_cells(maps: Tensor, side: int) -> NDArray[np.float64]:
    """(H, W) -> (side, side): sums over squares."""
    values = maps.double().numpy()
    step = len(values) // side
    return values.reshape(side, step, side, step).sum(axis=(1, 3))


def test_layers_are_multiplied_with_half_of_every_token_kept() -> None:
    generator = torch.Generator().manual_seed(3)
    attention = tuple(torch.rand((2, 4, 5, 5), generator=generator).softmax(-1) for _ in range(3))

    flow = rolled_out(attention, tokens=5)

    assert flow.shape == (2, 5, 5)
    assert np.allclose(flow[1], by_hand(attention, 1), atol=1e-6)
    assert torch.allclose(flow.sum(dim=2), torch.ones(2, 5))


def test_two_tokens_and_one_layer_by_pencil() -> None:
    attention = torch.tensor([[[[0.0, 1.0], [0.5, 0.5]]]])

    flow = rolled_out([attention], tokens=2)

    assert flow.tolist() == [[[0.5, 0.5], [0.25, 0.75]]]


def test_without_a_layer_every_token_is_its_own() -> None:
    assert torch.equal(rolled_out([], tokens=3)[0], torch.eye(3))


def drawn(cells: NDArray[np.float64], side_px: int) -> NDArray[np.float32]:
    spread = torch.nn.functional.interpolate(
        torch.from_numpy(cells)[None, None], size=(side_px, side_px), mode="bilinear"
    )[0, 0]
    return (spread / spread.sum()).numpy()


def test_map_is_what_flows_into_the_tokens_that_speak_for_the_logit(
    network: Network, images: Tensor
) -> None:
    output = network(images, task="chestx")
    parts = output.maps[:, 2].detach().double().numpy()

    maps = rollout(network, images, task="chestx", logit=2)

    for picture in range(len(images)):
        read = np.maximum(parts[picture], 0).reshape(-1)
        cells = (read @ by_hand(output.attention, picture)).reshape(8, 8)
        assert np.allclose(maps[picture], drawn(cells, 64), atol=1e-7)


def test_a_coarser_transformer_is_read_by_sums_over_its_cells() -> None:
    encoder = yaml.safe_load(Path("configs/models/tiny.yaml").read_text())["model"]["encoder"]
    network = small_network(encoder=encoder | {"transformer_stage": 3})
    images = drawn_pictures(1)
    output = network(images, task="retina")
    assert output.attention_grid == (4, 4)
    assert output.maps.shape[2:] == (8, 8)

    maps = rollout(network, images, task="retina", logit=0)

    read = over_cells(output.maps[0, 0].detach().clamp(min=0), 4).reshape(-1)
    cells = (read @ by_hand(output.attention, 0)).reshape(4, 4)
    assert np.allclose(maps[0], drawn(cells, 64), atol=1e-7)


def test_a_logit_that_no_attention_reaches_is_refused_by_name() -> None:
    network = small_network(gate_from="local")

    with pytest.raises(ExplanationError, match=r"nothing to say about Mass \(chestx\)"):
        rollout(network, drawn_pictures(1), task="chestx", logit=1)


@pytest.mark.parametrize("sign", [1, -1])
def test_with_a_local_gate_only_a_positive_context_is_rolled_out(sign: int) -> None:
    network = small_network(gate_from="local", context_labels={"chestx": ["Effusion"]})
    weight = network.get_parameter("heads.chestx.parts.context.weight")
    images = drawn_pictures(1)
    with torch.no_grad():
        weight *= sign * network(images, task="chestx").context[0, 0].sign()
    output = network(images, task="chestx")
    assert float(output.context[0, 0].detach()) * sign > 0

    maps = rollout(network, images, task="chestx", logit=0)

    cells = by_hand(output.attention, 0).mean(axis=0).reshape(8, 8)
    expected = drawn(cells, 64) if sign > 0 else np.zeros((64, 64))
    assert np.allclose(maps[0], expected, atol=1e-7)
