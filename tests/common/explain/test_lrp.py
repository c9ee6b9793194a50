"""Relevance reaches the pixels by stated rules, is conserved, and is never lost unseen."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from captum.attr import LRP
from captum.attr._utils.lrp_rules import EpsilonRule, GammaRule
from numpy.typing import NDArray
from small_network import small_network
from torch import Tensor, nn
from torch.nn import functional

from common.config.model import ModelConfig
from common.errors import ExplanationError
from common.explain import lrp_rules
from common.explain.lrp import GAMMA, Relevance, attribute, lrp, propagate
from common.model.network import Network, build_network
from common.tasks import task_named

Array = NDArray[np.float64]


def drawn(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def still(layers: nn.Module) -> nn.Module:
    """In evaluation mode, in double precision, every weight drawn, none wanting gradients."""
    generator = torch.Generator().manual_seed(11)
    layers = layers.double().eval().requires_grad_(False)
    for parameter in layers.parameters():
        parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return layers


def conserves(relevance: Relevance, *, share: float = 1e-9) -> bool:
    sums = relevance.pixels.flatten(1).sum(dim=1) + relevance.constants
    return bool(((sums - relevance.logit).abs() <= share * relevance.logit.abs()).all())


def array(tensor: Tensor | None) -> Array:
    assert tensor is not None
    return tensor.detach().double().numpy()


def test_perceptron_with_biases_agrees_with_shares_computed_by_hand() -> None:
    first, second = nn.Linear(4, 5), nn.Linear(5, 1)
    layers = still(nn.Sequential(first, nn.ReLU(), second, nn.Flatten(0)))
    values = drawn(3, 4)
    x = array(values)
    w, b, v, c = (array(p) for p in (first.weight, first.bias, second.weight[0], second.bias))
    z = x @ w.T + b  # (3, 5)
    hidden = np.maximum(z, 0)
    of_hidden = hidden * v  # each hidden unit's share of the logit; the bias keeps c
    of_pixels = np.einsum("ni,ji,nj->ni", x, w, of_hidden / z)
    of_biases = c + (b * of_hidden / z).sum(axis=1)

    found = propagate(layers, values)

    assert np.allclose(array(found.pixels), of_pixels)
    assert np.allclose(array(found.constants), of_biases)
    assert np.allclose(array(found.logit), hidden @ v + c)


def gamma_by_hand(x: Array, w: Array, b: Array, of_out: Array, gamma: float) -> tuple[Array, float]:
    """Go through every output of a 3 x 3 convolution of one picture (C, H, W), one by one."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    relevance, kept = np.zeros_like(padded), 0.0
    for channel, row, column in np.ndindex(*of_out.shape):
        window = (slice(None), slice(row, row + 3), slice(column, column + 3))
        parts = padded[window] * w[channel]
        z = parts.sum() + b[channel]
        weights = np.where(parts * z > 0, 1 + gamma, 1.0) * parts
        of_bias = b[channel] * (1 + gamma if b[channel] * z > 0 else 1.0)
        share = of_out[channel, row, column] / (weights.sum() + of_bias)
        relevance[window] += weights * share
        kept += of_bias * share
    return relevance[:, 1:-1, 1:-1], kept


@pytest.mark.parametrize("gamma", [0.0, 0.25, 3.0])
def test_convolution_favours_what_argues_for_the_sign_of_its_output(gamma: float) -> None:
    convolution = still(nn.Conv2d(2, 3, 3, padding=1))
    assert isinstance(convolution, nn.Conv2d)
    pictures, reader = drawn(2, 2, 5, 4), drawn(3, 5, 4, seed=4)

    def score(images: Tensor) -> Tensor:
        return (convolution(images) * reader).sum(dim=(1, 2, 3))

    found = propagate(score, pictures, gamma=gamma)

    for number, picture in enumerate(pictures):
        of_out = array(convolution(pictures)[number] * reader)
        weight, bias = array(convolution.weight), array(convolution.bias)
        by_hand, kept = gamma_by_hand(array(picture), weight, bias, of_out, gamma)
        assert np.allclose(array(found.pixels[number]), by_hand)
        assert float(found.constants[number]) == pytest.approx(kept)


@pytest.mark.parametrize("gamma", [0.0, 0.25])
def test_plain_network_agrees_with_captum(gamma: float) -> None:
    # Where captum's rules are ours: values that are nowhere negative, no bias beside γ.
    layers = still(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, bias=gamma == 0, stride=2),
            nn.ReLU(),
            nn.Conv2d(6, 4, 3, bias=gamma == 0, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(36, 2),
        )
    )
    pictures = drawn(2, 3, 13, 13).abs()

    found = propagate(lambda images: layers(images)[:, 1], pictures, gamma=gamma)

    for layer in layers:
        layer.rule = GammaRule(gamma) if isinstance(layer, nn.Conv2d) else EpsilonRule()
    reference = LRP(layers).attribute(pictures.clone().requires_grad_(), target=1)
    assert torch.allclose(found.pixels, reference, atol=1e-7)
    assert float(found.pixels.abs().max()) > 1e-3


def test_activations_pass_relevance_on_whole() -> None:
    values, weight = drawn(2, 6), drawn(6, seed=5)
    for activation in (functional.gelu, functional.silu, functional.relu, torch.tanh):
        found = propagate(lambda x, f=activation: (f(x) * weight).sum(dim=1), values)

        assert torch.allclose(found.pixels, activation(values) * weight)


def test_normalisation_is_linear_with_its_deviation_held_constant() -> None:
    norm = still(nn.LayerNorm(6))
    assert isinstance(norm, nn.LayerNorm)
    values, reader = drawn(3, 6), drawn(6, seed=5)
    x, gain, offset, read = (array(t) for t in (values, norm.weight, norm.bias, reader))
    deviation = np.sqrt(x.var(axis=1, keepdims=True) + norm.eps)
    # logit = Σ_k (x_k - mean) · s_k, so that x_i contributes x_i · (s_i - mean of s)
    slope = gain * read / deviation

    found = propagate(lambda x: norm(x) @ reader, values)

    assert np.allclose(array(found.pixels), x * (slope - slope.mean(axis=1, keepdims=True)))
    assert np.allclose(array(found.constants), offset @ read)


def test_what_a_softmax_weighs_gets_the_relevance_and_not_the_weights() -> None:
    values = drawn(2, 10)

    found = propagate(lambda x: (x[:, :5].softmax(dim=1) * x[:, 5:]).sum(dim=1), values)

    assert torch.equal(found.pixels[:, :5], torch.zeros(2, 5, dtype=torch.float64))
    assert torch.allclose(found.pixels[:, 5:], values[:, :5].softmax(dim=1) * values[:, 5:])


def test_factors_of_a_product_share_it_in_halves() -> None:
    values = drawn(2, 4)

    found = propagate(lambda x: (x[:, :2] * x[:, 2:]).sum(dim=1), values)

    half = values[:, :2] * values[:, 2:] / 2
    assert torch.allclose(found.pixels, torch.cat([half, half], dim=1))


def test_sum_of_two_branches_shares_in_proportion_and_constants_keep_theirs() -> None:
    values = drawn(2, 4)
    position = drawn(4, seed=5)

    def score(x: Tensor) -> Tensor:
        branch = 2 * x + position
        branch += 1
        return torch.cat([branch - x, 5 - x[:, :1]], dim=1).sum(dim=1)

    found = propagate(score, values)

    first = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    assert torch.allclose(found.pixels, values * (1 - first))
    assert torch.allclose(found.constants, position.sum() + torch.full((2,), 9.0).double())


class Mixed(nn.Module):
    """Layers of the networks that timm has and Fovea does not ship."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.group = nn.GroupNorm(2, 8)
        self.batch = nn.BatchNorm2d(8)
        self.squeeze = nn.Conv2d(8, 8, 1)
        self.read = nn.Linear(8, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = functional.silu(self.group(self.stem(images)))
        x = (
            x
            + functional.hardswish(self.batch(functional.pad(x, (1, 0, 0, 1), "replicate")))[
                :, :, :-1, 1:
            ]
        )
        x = x * self.squeeze(functional.adaptive_avg_pool2d(x, 1)).sigmoid()
        x = functional.interpolate(functional.max_pool2d(x, 3, 2, 1), size=(5, 5), mode="bilinear")
        return self.read(functional.dropout(x.mean((2, 3)), 0.5, self.training)).flatten()


def test_layers_that_are_not_shipped_conserve_as_well() -> None:
    layers = still(Mixed())
    layers.get_buffer("batch.running_mean").normal_(generator=torch.Generator().manual_seed(1))
    pictures = drawn(3, 3, 16, 16)

    found = propagate(layers, pictures)

    assert torch.allclose(found.logit, layers(pictures))
    assert conserves(found)


@pytest.mark.parametrize("part", ["batch", "dropout"])
def test_training_mode_is_refused(part: str) -> None:
    layers = still(nn.Sequential(nn.BatchNorm1d(4) if part == "batch" else nn.Dropout(0.5)))

    with pytest.raises(ExplanationError, match=r"network\.eval\(\)"):
        propagate(lambda x: layers.train()(x).sum(dim=1), drawn(3, 4))


class GlobalResponse(nn.Module):
    """ConvNeXt V2's normalisation, for which there is no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return images * self.gain * images.norm(dim=(2, 3), keepdim=True)


@pytest.mark.parametrize(
    ("layer", "named"),
    [(nn.PReLU(), "PReLU"), (GlobalResponse(), "GlobalResponse"), (nn.LPPool2d(2, 2), "LPPool2d")],
)
def test_unknown_layer_is_refused_by_its_name(layer: nn.Module, named: str) -> None:
    layers = still(nn.Sequential(nn.Conv2d(3, 3, 1), layer))

    with pytest.raises(ExplanationError, match=named):
        propagate(lambda x: layers(x).sum(dim=(1, 2, 3)), drawn(1, 3, 4, 4))


def test_relevance_that_a_rule_loses_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def lossy(_propagation: object, operation: Callable[..., Tensor], values: Tensor) -> Tensor:
        return operation(values) - values / 2 + (values / 2).detach()

    monkeypatch.setitem(lrp_rules.RULES, "neg", lossy)

    with pytest.raises(ExplanationError, match="lost between logit and pixels"):
        propagate(lambda x: (-x).sum(dim=1), drawn(2, 3))


def test_score_that_is_not_a_number_is_an_error() -> None:
    with pytest.raises(ExplanationError, match="lost"):
        propagate(lambda x: x.sum(dim=1), torch.full((1, 2), torch.nan))


def test_probability_is_refused_with_the_advice_to_ask_for_a_logit() -> None:
    with pytest.raises(ExplanationError, match="logit, not for a probability"):
        propagate(lambda x: x.sum(dim=1).sigmoid(), drawn(1, 3))


def test_constant_that_mixes_pictures_is_refused() -> None:
    with pytest.raises(ExplanationError, match="picture by picture"):
        propagate(lambda x: (x.flatten() + 1).reshape(2, 3).sum(dim=1), drawn(2, 3))


def shipped(name: str) -> Network:
    """A shipped network with every constant start (gains, layer scales, biases) drawn anew."""
    values = yaml.safe_load(Path(f"configs/models/{name}.yaml").read_text())["model"]
    values |= {"context_labels": {"chestx": ["Mass"]}}
    if name != "tiny":  # encoders whole; their locality is measured elsewhere and takes long
        values |= {"image_size_px": 64, "encoder": values["encoder"] | {"allow_leaky": True}}
        values |= {"width": 96, "transformer": {"layers": 1, "heads": 2, "mlp_ratio": 2.0}}
    config = ModelConfig.model_validate(values)
    network = build_network(config, {"chestx": task_named("chestx", ("Mass", "Nodule"))}, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.numel() == 1 or float(parameter.std()) < 1e-4:
                parameter.copy_(0.5 + torch.rand(parameter.shape, generator=generator))
    return network.double()


@pytest.mark.parametrize("name", ["tiny", "small", "base"])
def test_shipped_networks_conserve_and_compute_what_they_always_do(name: str) -> None:
    network = shipped(name)
    pictures = drawn(1, 3, 32, 32)

    for logit in (0, 1):  # with and without a context part, which comes through the transformer
        found = attribute(network, pictures, task="chestx", logit=logit)

        expected = network.eval()(pictures, task="chestx").logits[:, logit]
        assert torch.allclose(found.logit, expected, atol=1e-9)
        assert conserves(found)
        assert float(found.pixels.abs().sum()) > 1e-3


def test_gamma_keeps_relevance_from_cancelling() -> None:
    network, pictures = shipped("tiny"), drawn(2, 3, 64, 64)

    moved = [
        attribute(network, pictures, task="chestx", logit=1, gamma=gamma).pixels.abs().sum()
        for gamma in (0.0, GAMMA)
    ]

    assert float(moved[0]) > 3 * float(moved[1])


def test_relevance_stays_where_local_evidence_can_see() -> None:
    """Only tokens at the upper left have evidence; the transformer's gate sees all."""
    network = small_network()
    pictures = drawn(1, 3, 64, 64).float()

    def corner(_module: nn.Module, _inputs: object, out: Tensor) -> Tensor:
        return out * (torch.arange(8) < 1).float()[None, :, None, None]

    network.get_submodule("heads.chestx.parts.evidence").register_forward_hook(corner)
    reach = network.locality.receptive_field_px

    maps = lrp(network, pictures, task="chestx", logit=0)

    assert float(maps.sum()) == pytest.approx(1, abs=1e-5)
    assert reach < 56
    assert torch.equal(maps[0, reach:], torch.zeros(64 - reach, 64))


def test_pictures_that_go_through_in_parts_come_out_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, pictures = shipped("tiny"), drawn(5, 3, 32, 32)
    together = attribute(network, pictures, task="chestx", logit=0)
    monkeypatch.setattr("common.explain.lrp.PICTURES_AT_ONCE", 2)

    in_parts = attribute(network, pictures, task="chestx", logit=0)

    assert torch.allclose(in_parts.pixels, together.pixels)
    assert torch.allclose(in_parts.constants, together.constants)
    assert torch.allclose(in_parts.logit, together.logit)


def test_map_is_the_positive_part_of_what_the_pixels_hold() -> None:
    network, pictures = small_network(), drawn(2, 3, 64, 64).float()

    maps = lrp(network, pictures, task="retina", logit=0)

    held = attribute(network, pictures, task="retina", logit=0).pixels.sum(dim=1).numpy()
    expected = np.maximum(held, 0) / np.maximum(held, 0).sum(axis=(1, 2), keepdims=True)
    assert (held < 0).any()
    assert np.allclose(maps.numpy(), expected, atol=1e-7)
