"""LIME recovers a network that is linear in its segments, from few drawings, the same each time."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import label
from small_network import drawn_pictures
from torch import Tensor
from torch.nn import functional

from common.explain.baseline import blurred
from common.explain.lime import (
    EVALUATIONS,
    RIDGE,
    SEGMENTS,
    _nearness,
    lime,
    segments_of,
    weights_of,
)
from common.model.network import Network

SIDE_PX = 32
# Ribeiro et al. 2016, section 3.3: exp(-D² / σ²), D the cosine distance; σ as in the authors' code
# for pictures, https://github.com/marcotcr/lime, LimeImageExplainer(kernel_width=.25).
SIGMA = 0.25


def quarters(cells: int) -> Tensor:
    """Segments that are cells x cells squares."""
    rows = torch.arange(SIDE_PX) * cells // SIDE_PX
    return rows[:, None] * cells + rows


def shown_share(pictures: Tensor, picture: Tensor, paint: Tensor, segments: Tensor) -> Tensor:
    """Which segments (B, S) of pictures are shown, told from the pixels."""
    is_shown = (pictures - paint).abs() > (pictures - picture).abs()  # (B, 3, H, W)
    members = functional.one_hot(segments.flatten()).double()  # (H W, S)
    return is_shown.double().mean(dim=1).flatten(1) @ members / members.sum(dim=0)


def test_weights_of_a_score_that_is_linear_in_the_segments_are_recovered() -> None:
    picture = drawn_pictures(1, side_px=SIDE_PX)[0]
    paint, segments = blurred(picture[None])[0], quarters(6)
    truth = torch.linspace(-2, 3, 36).double()

    def score(pictures: Tensor) -> Tensor:
        return 0.7 + shown_share(pictures, picture, paint, segments) @ truth

    found = weights_of(score, picture, paint=paint, segments=segments)

    # The ridge draws weights together, by 0.1 of a variance of about 16.
    assert torch.allclose(found.double(), truth, atol=0.05)


def test_weights_are_those_of_a_weighted_ridge_regression() -> None:
    picture = drawn_pictures(1, side_px=SIDE_PX)[0]
    paint, segments = blurred(picture[None])[0], quarters(4)
    shown, values = [], []

    def score(pictures: Tensor) -> Tensor:
        answers = pictures.square().mean(dim=(1, 2, 3)).exp()
        shown.append(shown_share(pictures, picture, paint, segments))
        values.append(answers.double())
        return answers

    found = weights_of(score, picture, paint=paint, segments=segments, evaluations=64)

    x, y = torch.cat(shown).numpy(), torch.cat(values).numpy()
    assert np.allclose(x, x.round())
    x = x.round()
    distance = 1 - x.sum(axis=1) / (np.sqrt(x.sum(axis=1)) * 4)  # cosine to 16 ones
    weight = np.exp(-(distance**2) / SIGMA**2)
    x = x - np.average(x, axis=0, weights=weight)
    y = y - np.average(y, weights=weight)
    expected = np.linalg.solve(x.T @ (weight[:, None] * x) + RIDGE * np.eye(16), x.T @ (weight * y))
    assert np.allclose(found.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("on", "weight"),
    [
        (16, 1.0),  # as the picture is: no distance
        (9, 0.367879),  # D = 1 - 3/4 = σ: e^-1
        (4, 0.018316),  # D = 1 - 2/4 = 2 σ: e^-4
        (1, 0.000123),  # D = 1 - 1/4 = 3 σ: e^-9
    ],
)
def test_a_drawing_counts_by_its_distance_from_the_picture(on: int, weight: float) -> None:
    drawn = (torch.arange(16) < on).float()[None]

    assert float(_nearness(drawn, drawn, drawn)) == pytest.approx(weight, abs=1e-6)


def test_network_is_asked_as_often_as_stated_and_each_segment_is_off_half_of_the_time() -> None:
    picture = drawn_pictures(1, side_px=SIDE_PX)[0]
    paint, segments = blurred(picture[None])[0], quarters(3)
    shown = []

    def score(pictures: Tensor) -> Tensor:
        shown.append(shown_share(pictures, picture, paint, segments))
        return pictures.mean(dim=(1, 2, 3))

    weights_of(score, picture, paint=paint, segments=segments)

    everything = torch.cat(shown)
    assert everything.shape == (EVALUATIONS, 9)
    assert torch.allclose(everything.mean(dim=0), torch.full((9,), 0.5).double())


def step(side: int) -> Tensor:
    left = (torch.arange(side) < side // 3).float()
    return left.expand(3, side, side).clone()


@pytest.mark.parametrize(
    "draw",
    [lambda: drawn_pictures(1)[0], lambda: torch.zeros(3, 64, 64), lambda: step(64) * 9 - 4],
    ids=["noise", "even", "edge"],
)
def test_segments_are_connected_and_numbered_without_gaps(draw: Callable[[], Tensor]) -> None:
    segments = segments_of(draw())

    assert segments.shape == (64, 64)
    numbers = segments.unique()
    assert torch.equal(numbers, torch.arange(len(numbers)))
    assert SEGMENTS / 2 < len(numbers) <= SEGMENTS
    assert all(label((segments == number).numpy())[1] == 1 for number in numbers)


def test_segments_keep_to_an_edge() -> None:
    bright = step(64)[0] > 0

    segments = segments_of(step(64))

    shares = torch.stack([bright[segments == n].float().mean() for n in segments.unique()])
    mixed = torch.minimum(shares, 1 - shares)
    assert float(mixed.max()) < 0.1  # a grid of eight would cut through columns 16 to 24


def test_map_spreads_positive_weights_over_segments_and_finds_what_the_network_reads(
    network: Network,
) -> None:
    picture = drawn_pictures(1, side_px=SIDE_PX)
    segments = segments_of(picture[0])

    drawn = lime(network, picture, task="pathoscan", logit=0)[0]

    with torch.no_grad():
        weights = weights_of(
            lambda x: network(x, task="pathoscan").logits[:, 0],
            picture[0],
            paint=blurred(picture)[0],
            segments=segments,
        )
    masses = torch.stack([drawn[segments == number].sum() for number in segments.unique()])
    assert bool((weights < 0).any())
    assert torch.allclose(masses, weights.clamp(min=0) / weights.clamp(min=0).sum(), atol=1e-6)
    assert all(len(drawn[segments == number].unique()) == 1 for number in segments.unique())


def test_drawings_are_neither_of_the_global_chance_nor_change_it(network: Network) -> None:
    picture = drawn_pictures(1, side_px=SIDE_PX)
    torch.manual_seed(1)
    first = lime(network, picture, task="retina", logit=0)
    torch.manual_seed(2)
    np.random.seed(2)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()

    second = lime(network, picture, task="retina", logit=0)

    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
