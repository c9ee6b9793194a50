"""Evidence depends on its neighbourhood alone, or the encoder is refused."""

import logging
from collections.abc import Callable

import pytest
import torch

from common.errors import ModelError
from common.model.locality import measure_locality
from common.model.network import Network, Output, build_network
from common.model_config import ModelConfig
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


def test_batch_normalisation_is_seen_to_cross_pictures(configured: Configured) -> None:
    encoder = configured("tiny", encoder=LEAKY["BatchNorm"]).encoder
    assert measure_locality(encoder, image_size_px=64).crosses_pictures


def test_every_shipped_size_stays_below_sixty_percent_of_the_width(configured: Configured) -> None:
    for size, side_px in NETWORKS.items():
        locality = measure_locality(configured(size).encoder, image_size_px=side_px)
        assert locality.picture_share <= 0.6
