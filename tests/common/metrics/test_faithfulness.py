"""Deletion and insertion, worked out by hand for an answer that adds up pixels."""

import numpy as np
import pytest
import torch
from torch import Tensor

from common.errors import DataError
from common.metrics.faithfulness import (
    Curves,
    cell_ranks,
    curves_by_chance,
    curves_in_order,
    random_ranks,
)

SIDE_PX = 16
GRID = (4, 4)


@pytest.fixture
def weights() -> Tensor:
    """What each cell adds to the answer, (4, 4)."""
    return torch.rand(GRID, generator=torch.Generator().manual_seed(1)) / 8


def images(count: int) -> Tensor:
    return torch.ones(count, 3, SIDE_PX, SIDE_PX)


def over_pixels(cells: Tensor) -> Tensor:
    return cells.repeat_interleave(4, dim=-2).repeat_interleave(4, dim=-1)


def adding(weights: Tensor) -> torch.nn.Module:
    """An answer to which each cell adds its weight times its mean brightness."""

    class Adding(torch.nn.Module):
        def forward(self, pictures: Tensor) -> Tensor:
            return (pictures.mean(dim=1) * over_pixels(weights)).sum(dim=(1, 2)) / 16

    return Adding()


def by_map(answer: torch.nn.Module, saliency: Tensor, *, seed: int = 0) -> Curves:
    shown = images(len(saliency))
    return curves_in_order(
        answer, shown, cell_ranks(saliency, grid=GRID, seed=seed), paint=torch.zeros_like(shown),
        grid=GRID,
    )  # fmt: skip


def by_chance(answer: torch.nn.Module, *, orders: int, seed: int = 0) -> tuple[Curves, ...]:
    shown = images(1)
    return curves_by_chance(
        answer, shown, paint=torch.zeros_like(shown), seed=seed, random_orders=orders, grid=GRID
    )


def test_curves_lose_and_gain_the_cells_weights_in_their_order(weights: Tensor) -> None:
    measured = by_map(adding(weights), over_pixels(weights)[None])

    falling = np.sort(weights.flatten().double().numpy())[::-1]
    gained = np.concatenate([[0], falling.cumsum()])
    np.testing.assert_allclose(measured.insertion[0], gained, atol=1e-6)
    np.testing.assert_allclose(measured.deletion[0], gained[-1] - gained, atol=1e-6)
    np.testing.assert_allclose(measured.shares, np.arange(17) / 16)
    by_hand = (gained[:-1] + gained[1:]).sum() / 2 / 16
    assert measured.insertion_area == pytest.approx([by_hand])
    assert measured.deletion_area == pytest.approx([gained[-1] - by_hand])


def test_faithful_map_beats_each_random_order_and_its_opposite_none(weights: Tensor) -> None:
    answer, good = adding(weights), over_pixels(weights)[None]

    right, wrong = by_map(answer, good), by_map(answer, 1 - good)
    areas = np.array([one.deletion_area[0] for one in by_chance(answer, orders=40, seed=3)])

    assert float(right.deletion_area[0]) < areas.min()
    assert areas.max() < float(wrong.deletion_area[0])
    assert areas.max() < float(right.insertion_area[0])
    # Any order is as good as any other on average: half of the answer.
    assert areas.mean() == pytest.approx(float(weights.sum()) / 2, rel=0.05)
    assert len(set(areas.round(9))) == 40


def test_by_chance_insertion_is_the_reverse_order_brought_back(weights: Tensor) -> None:
    answer = torch.nn.Sequential(adding(weights), torch.nn.Sigmoid())
    paint = torch.rand((1, 3, SIDE_PX, SIDE_PX), generator=torch.Generator().manual_seed(2))
    options = {"paint": paint, "grid": GRID, "steps": 8}

    (_, second) = curves_by_chance(answer, images(1), seed=4, random_orders=2, **options)

    ranks = random_ranks(1, grid=GRID, seed=4, number=1)
    forwards = curves_in_order(answer, images(1), ranks, **options)
    backwards = curves_in_order(answer, images(1), 15 - ranks, **options)
    np.testing.assert_allclose(second.deletion, forwards.deletion)
    np.testing.assert_allclose(second.insertion, backwards.insertion)
    assert second.insertion_area == pytest.approx(second.deletion_area)


def test_flat_map_is_exactly_as_good_as_the_first_random_order(weights: Tensor) -> None:
    flat = by_map(adding(weights), torch.full((2, SIDE_PX, SIDE_PX), 1 / 256), seed=5)
    first, *_ = by_chance(adding(weights), orders=3, seed=5)

    np.testing.assert_array_equal(flat.deletion, np.repeat(first.deletion, 2, axis=0))


def test_ties_are_broken_by_the_seed_alone() -> None:
    maps = torch.zeros(3, SIDE_PX, SIDE_PX)
    maps[:, :4, :4] = 1.0

    first, again, other = (cell_ranks(maps, grid=GRID, seed=seed) for seed in (0, 0, 1))
    alone = cell_ranks(maps[2:] * 1e-6, grid=GRID, seed=0)

    assert torch.equal(first, again)
    assert torch.equal(first[2:], alone)
    assert not torch.equal(first, other)
    assert first[:, 0].tolist() == other[:, 0].tolist() == [0, 0, 0]
    assert torch.equal(first.sort(dim=1).values, torch.arange(16).expand(3, -1))


def test_picture_by_picture_is_as_together_and_costs_what_is_stated(weights: Tensor) -> None:
    asked: list[int] = []
    answer = adding(weights)

    def counted(pictures: Tensor) -> Tensor:
        asked.append(len(pictures))
        return answer(pictures)

    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand((3, 3, SIDE_PX, SIDE_PX), generator=generator)
    saliency = torch.rand((3, SIDE_PX, SIDE_PX), generator=generator)
    options = {"grid": GRID, "steps": 8, "at_once": 7}

    together = curves_in_order(
        counted, pictures, cell_ranks(saliency, grid=GRID, seed=0), paint=1 - pictures, **options
    )

    assert sum(asked) == 3 * 2 * 9
    assert max(asked) == 7
    asked.clear()
    chance = curves_by_chance(
        counted, pictures, paint=1 - pictures, seed=0, random_orders=4, **options
    )
    assert sum(asked) == 3 * 4 * 9
    for row in range(3):
        only = slice(row, row + 1)
        shown, paint = pictures[only], 1 - pictures[only]
        alone = curves_in_order(
            answer, shown, cell_ranks(saliency[only], grid=GRID, seed=0), paint=paint, **options
        )
        np.testing.assert_allclose(alone.deletion[0], together.deletion[row])
        orders = curves_by_chance(answer, shown, paint=paint, seed=0, random_orders=4, **options)
        np.testing.assert_allclose(orders[3].insertion[0], chance[3].insertion[row])


def test_cells_of_a_side_that_does_not_divide_are_whole_and_cover_the_picture() -> None:
    pictures = torch.ones(1, 3, 10, 10)
    ranks = random_ranks(1, grid=GRID, seed=0)
    share_left = lambda shown: shown.mean(dim=(1, 2, 3))  # noqa: E731

    found = curves_in_order(
        share_left, pictures, ranks, paint=torch.zeros_like(pictures), grid=GRID, steps=16
    )

    assert found.deletion[0, 0] == 1
    assert found.deletion[0, -1] == 0
    assert (np.diff(found.deletion[0]) < 0).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"paint": torch.zeros(1, 3, 8, 8)}, "one shape"),
        ({"steps": 17}, "from 1 to the 16 cells"),
        ({"steps": 6}, "divide them"),
        ({"grid": (32, 32), "steps": 4}, "coarser grid"),
        ({"random_orders": 0}, "at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(
    weights: Tensor, change: dict[str, object], words: str
) -> None:
    options = {"paint": torch.zeros_like(images(1)), "seed": 0, "grid": GRID, "random_orders": 2}
    options |= change
    with pytest.raises(DataError, match=words):
        curves_by_chance(adding(weights), images(1), **options)


def test_more_steps_than_cells_are_refused(weights: Tensor) -> None:
    order = random_ranks(1, grid=GRID, seed=0)
    with pytest.raises(DataError, match="from 1 to the 16 cells"):
        curves_in_order(adding(weights), images(1), order, paint=images(1), grid=GRID, steps=17)
