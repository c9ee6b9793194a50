"""Integrated gradients are complete, or say that they are not."""

import numpy as np
import pytest
import torch
from small_network import drawn_pictures
from torch import Tensor, nn

from common.errors import ExplanationError
from common.explain.baseline import blurred, dataset_mean
from common.explain.integrated_gradients import (
    FIRST_STEPS,
    TOLERANCE,
    along_path,
    attribute,
    integrated_gradients,
)
from common.model.network import Network


def norm_first_network() -> nn.Module:
    """A convolution without bias, then a normalisation: a·x has the score of x for every a > 0."""
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=4, bias=False),
        nn.GroupNorm(1, 8, eps=1e-12),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 1),
        nn.Flatten(0),
    ).requires_grad_(False)


def test_of_a_linear_score_is_weight_times_difference() -> None:
    images, start = drawn_pictures(2, side_px=8), torch.ones(2, 3, 8, 8)
    weight = torch.linspace(-1, 1, 3 * 64).reshape(3, 8, 8)

    gradient, attribution = along_path(lambda x: (x * weight).sum((1, 2, 3)), images, start)

    assert torch.allclose(gradient, weight.expand_as(images), atol=1e-6)
    assert torch.allclose(attribution.values, weight * (images - start), atol=1e-6)
    assert bool((attribution.gap < 1e-5).all())


def test_of_a_sum_of_squares_is_the_difference_of_squares() -> None:
    images, start = drawn_pictures(1, side_px=8), torch.full((1, 3, 8, 8), 0.3)

    _, attribution = along_path(lambda x: (x**2).sum((1, 2, 3)), images, start)

    assert torch.allclose(attribution.values, images**2 - start**2, atol=1e-5)


def test_on_the_network_it_is_the_mean_gradient_times_the_difference(network: Network) -> None:
    images = drawn_pictures(1, side_px=32)
    steps = 400
    places = (torch.arange(steps) + 0.5)[:, None, None, None] / steps  # midpoints, not Gauss
    path = (blurred(images) + places * (images - blurred(images))).requires_grad_()
    (slopes,) = torch.autograd.grad(network(path, task="chestx").logits[:, 1].sum(), path)
    expected = slopes.mean(dim=0) * (images - blurred(images))[0]

    found = attribute(network, images, task="chestx", logit=1).values[0]

    assert float((found - expected).abs().sum()) < 0.1 * float(expected.abs().sum())
    assert np.corrcoef(found.flatten(), expected.flatten())[0, 1] > 0.995


@pytest.mark.parametrize("start", ["blurred", "mean of the set"])
def test_the_network_is_explained_completely(network: Network, images: Tensor, start: str) -> None:
    baseline = None if start == "blurred" else dataset_mean(images)
    from_where = blurred(images) if baseline is None else baseline.expand_as(images)
    with torch.no_grad():
        risen = (
            network(images, task="chestx").logits[:, 0]
            - network(from_where, task="chestx").logits[:, 0]
        )

    found = attribute(network, images, task="chestx", logit=0, baseline=baseline)

    missing = (found.values.sum(dim=(1, 2, 3)) - risen).abs() / risen.abs().clamp(min=0.1)
    assert torch.allclose(found.difference, risen, atol=1e-6)
    assert torch.allclose(found.gap, missing, atol=1e-4)
    assert bool((found.gap <= TOLERANCE).all())


def test_a_norm_first_network_is_complete_from_the_blurred_picture_but_not_from_zero() -> None:
    network, images = norm_first_network(), drawn_pictures(1, side_px=32)

    _, attribution = along_path(network, images, blurred(images))

    assert float(attribution.gap) <= TOLERANCE
    with pytest.raises(ExplanationError, match="picture 0 add up to"):
        along_path(network, images, torch.zeros_like(images))


def test_steps_are_doubled_for_the_pictures_that_need_it_alone() -> None:
    evaluated: list[int] = []

    def score(pictures: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            evaluated.append(len(pictures))
        mean = pictures.mean(dim=(1, 2, 3))
        return mean + (30 * (mean - 2)).sigmoid()  # steep at 2, which only the second picture meets

    images = torch.stack([torch.full((3, 8, 8), level) for level in (1.0, 4.0)])

    _, attribution = along_path(score, images, torch.zeros_like(images))

    assert sum(evaluated) > 2 * FIRST_STEPS
    assert (sum(evaluated) - 2 * FIRST_STEPS) % (2 * FIRST_STEPS) == 0  # one picture goes on
    assert attribution.difference.tolist() == pytest.approx([1.0, 5.0], abs=1e-4)
    assert attribution.values.sum(dim=(1, 2, 3)).tolist() == pytest.approx([1.0, 5.0], rel=0.05)


def test_a_score_that_is_no_number_is_an_error_and_not_a_map() -> None:
    with pytest.raises(ExplanationError, match="nan"):
        along_path(
            lambda x: x.sum((1, 2, 3)) * torch.nan,
            torch.ones(1, 3, 8, 8),
            torch.zeros(1, 3, 8, 8),
        )


def test_a_picture_without_content_has_a_map_of_zeros(network: Network) -> None:
    # The blurred picture is the picture up to rounding.
    images = torch.tensor([-1.7, 0.3, 2.4])[:, None, None, None].expand(-1, 3, 64, 64)

    maps = integrated_gradients(network, images, task="chestx", logit=0)

    assert torch.equal(maps, torch.zeros_like(maps))
