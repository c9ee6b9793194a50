"""Evidence depends on its neighbourhood alone, or the encoder is refused."""

import logging
from collections.abc import Callable

import pytest
import torch

from common.config.model import ModelConfig
from common.errors import ModelError
from common.model.encoder import Encoder
from common.model.locality import measure_locality
from common.model.network import Network, Output, Trunk, build_network
from common.tasks import TASKS

Configured = Callable[..., ModelConfig]
ONE_TASK = {"chestx": TASKS["chestx"]}
# Encoders whose features carry statistics or gates over the whole picture.
LEAKY = {
    "GroupNorm": {
        "name": "resnetv2_18",
        "options": {"norm_layer": "groupnorm"},
        "evidence_stage": 2,
    },
    "BatchNorm": {"name": "resnet18", "options": {}, "evidence_stage": 2},
    "squeeze-and-excitation": {
        "name": "nf_seresnet26",
        "options": {"depths": [1, 1, 1, 1], "channels": [16, 32, 32, 32], "stem_chs": 16},
        "evidence_stage": 2,
    },
}
NETWORKS = {
    "tiny": 64,
    "small": 256,
    "base": 256,
}


def shaken(network: Network) -> Network:
    """Give parameters that start at a constant random values, so that every branch counts."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.rand_like(parameter) * 0.1)
    return network


def before_and_after(network: Network, side_px: int) -> tuple[Output, Output]:
    """Return outputs for a picture before and after its upper left corner is altered."""
    images = torch.randn(1, 3, side_px, side_px, generator=torch.Generator().manual_seed(1))
    altered = images.clone()
    altered[..., : side_px // 8, : side_px // 8] += 4.0
    with torch.no_grad():
        return network(images, task="chestx"), network(altered, task="chestx")


def far(values: torch.Tensor) -> torch.Tensor:
    """Return the lower right quarter of a (B, T, h, w) picture."""
    return values[..., values.shape[2] // 2 :, values.shape[3] // 2 :]


@pytest.mark.parametrize("size", list(NETWORKS))
def test_altering_a_far_patch_leaves_evidence_elsewhere_unmoved(
    configured: Configured, size: str
) -> None:
    network = shaken(build_network(configured(size), ONE_TASK, seed=0))

    before, after = before_and_after(network, NETWORKS[size])

    assert (before.evidence - after.evidence).abs().max() > 1e-3  # it is seen where it is
    assert (far(before.evidence) - far(after.evidence)).abs().max() <= 1e-6
    assert (far(before.gate) - far(after.gate)).abs().max() > 0  # the gate sees everything


def test_with_the_strict_gate_far_scores_do_not_move_either(configured: Configured) -> None:
    network = shaken(build_network(configured("tiny", gate_from="local"), ONE_TASK, seed=0))

    before, after = before_and_after(network, 64)

    # Softmax shares one divisor; ratios between far places are what the far tokens decide.
    ratios = [far(o.gate) / far(o.gate)[..., :1, :1] for o in (before, after)]
    torch.testing.assert_close(ratios[0], ratios[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("part", ["GroupNorm", "squeeze-and-excitation"])
def test_a_leaky_encoder_moves_evidence_far_away(configured: Configured, part: str) -> None:
    config = configured("tiny", encoder=LEAKY[part] | {"allow_leaky": True})
    network = shaken(build_network(config, ONE_TASK, seed=0))

    before, after = before_and_after(network, 64)

    assert (far(before.evidence) - far(after.evidence)).abs().max() > 1e-5


@pytest.mark.parametrize("part", list(LEAKY))
def test_a_leaky_encoder_is_refused_naming_what_leaks(configured: Configured, part: str) -> None:
    config = configured("tiny", encoder=LEAKY[part])
    with pytest.raises(ModelError, match=f"{part}.*allow_leaky"):
        build_network(config, ONE_TASK, seed=0)


def test_a_leaky_encoder_that_is_allowed_says_so(
    configured: Configured, caplog: pytest.LogCaptureFixture
) -> None:
    config = configured("tiny", encoder=LEAKY["GroupNorm"] | {"allow_leaky": True})

    with caplog.at_level(logging.WARNING):
        build_network(config, ONE_TASK, seed=0)

    assert [record.action for record in caplog.records] == ["leaky_encoder"]
    assert "GroupNorm" in caplog.text


def test_too_wide_a_receptive_field_is_refused_with_its_share(configured: Configured) -> None:
    config = configured("small", encoder={"evidence_block": None})
    with pytest.raises(ModelError, match=r"160 px, 62% of the picture's width \(allowed 60%\)"):
        build_network(config, ONE_TASK, seed=0)


def test_measured_receptive_field_equals_the_sum_over_layers(configured: Configured) -> None:
    # Stem 7 then pool 3 at stride 2: 11. Stage 0: two 3x3 at stride 4: +16. Stage 1 begins with
    # a 3x3 at stride 4: +8. ConvNeXt: patch 4, two 7x7 at 4: +48, patch 2: +4, 7x7 at 8: +48,
    # and two 8-px columns pooled to a token: +8.
    for size, side_px, expected_px in (("tiny", 64, 35), ("small", 256, 112), ("base", 256, 99)):
        locality = measure_locality(configured(size).encoder, image_size_px=side_px)
        assert locality.receptive_field_px == expected_px
        assert locality.far_change == 0.0
        assert not locality.crosses_pictures


def looks_beside_its_cell_px(config: ModelConfig, *, shift_px: int) -> tuple[float, float]:
    """Mean over random weights of how far a token's gradient lies off its cell's centre, in px.

    The last gain of each residual branch starts at zero in timm's ResNets: first as it starts,
    then drawn, so that the branches are open.
    """
    token_px = config.encoder.token_stride_px
    side_px = 64 if token_px == 8 else 192
    token = side_px // token_px // 2
    cell_px = (token + 0.5) * token_px
    closed, opened = [], []
    for seed in range(12 if side_px == 64 else 4):
        torch.manual_seed(100 + seed)
        trunk = Trunk(config, shift_px=shift_px)
        closed.append(centre_seen_px(trunk, token, side_px) - cell_px)
        with torch.no_grad():
            for parameter in trunk.encoder.parameters():
                if parameter.ndim == 4 and not parameter.any():
                    parameter.uniform_(0.5, 1.5)
        opened.append(centre_seen_px(trunk, token, side_px) - cell_px)
    return sum(closed) / len(closed), sum(opened) / len(opened)


def centre_seen_px(trunk: Trunk, token: int, side_px: int) -> float:
    """Return where on the diagonal the gradient of one token's features lies on the whole."""
    images = torch.randn(1, 3, side_px, side_px, requires_grad=True)
    seen = trunk(images)[0][0, :, token, token]
    (seen @ torch.randn_like(seen)).backward()
    rows = images.grad[0].square().sum(dim=(0, 2))
    columns = images.grad[0].square().sum(dim=(0, 1))
    weight = (rows + columns) / (rows + columns).sum()
    return float(weight @ (torch.arange(side_px) + 0.5))


@pytest.mark.parametrize(("size", "shift_px"), [("tiny", 2), ("small", 0), ("base", 2)])
def test_a_token_looks_at_its_own_cell(configured: Configured, size: str, shift_px: int) -> None:
    config = configured(size)
    locality = measure_locality(config.encoder, image_size_px=NETWORKS[size])
    assert locality.shift_px == shift_px

    closed, opened = looks_beside_its_cell_px(config, shift_px=shift_px)

    assert abs(opened) <= 0.5
    # Whole pixels cannot meet open and closed branches alike.
    assert abs(closed) <= 1.0


@pytest.mark.parametrize("shift_px", [2, -3])
def test_a_shifted_encoder_reads_the_picture_from_there_and_repeats_its_edge(
    configured: Configured, shift_px: int
) -> None:
    config = configured("tiny").encoder
    plain = Encoder(config)
    shifted = Encoder(config, shift_px=shift_px)
    shifted.load_state_dict(plain.state_dict())  # the same names and shapes
    images = torch.randn(2, 3, 64, 96)
    rows, columns = ((torch.arange(n) + shift_px).clamp(0, n - 1) for n in (64, 96))

    features, _ = shifted(images)

    expected, _ = plain(images[:, :, rows][:, :, :, columns])
    assert torch.equal(features, expected)


def test_an_encoder_that_sees_the_whole_picture_is_not_shifted(configured: Configured) -> None:
    encoder = configured("tiny", encoder=LEAKY["GroupNorm"]).encoder
    assert measure_locality(encoder, image_size_px=64).shift_px == 0


def test_batch_normalisation_is_seen_to_cross_pictures(configured: Configured) -> None:
    encoder = configured("tiny", encoder=LEAKY["BatchNorm"]).encoder
    assert measure_locality(encoder, image_size_px=64).crosses_pictures


def test_every_shipped_size_stays_below_sixty_percent_of_the_width(configured: Configured) -> None:
    for size, side_px in NETWORKS.items():
        locality = measure_locality(configured(size).encoder, image_size_px=side_px)
        assert locality.picture_share <= 0.6
