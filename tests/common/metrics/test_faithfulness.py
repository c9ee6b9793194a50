"""Deletion and insertion, worked out by hand for an answer that adds up pixels."""

import numpy as np
import pytest
import torch
from torch import Tensor

from common.errors import DataError
from common.metrics.faithfulness import cell_ranks, curves_in_order, faithfulness, random_ranks

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


def test_curves_lose_and_gain_the_cells_weights_in_their_order(weights: Tensor) -> None:
    saliency = over_pixels(weights)[None]

    measured = faithfulness(
        adding(weights), images(1), saliency, paint=torch.zeros_like(images(1)), seed=0,
        grid=GRID, steps=16,
    ).by_map  # fmt: skip

    falling = np.sort(weights.flatten().double().numpy())[::-1]
    gained = np.concatenate([[0], falling.cumsum()])
    np.testing.assert_allclose(measured.insertion[0], gained, atol=1e-6)
    np.testing.assert_allclose(measured.deletion[0], gained[-1] - gained, atol=1e-6)
    np.testing.assert_allclose(measured.shares, np.arange(17) / 16)
    by_hand = (gained[:-1] + gained[1:]).sum() / 2 / 16
    assert measured.insertion_area == pytest.approx([by_hand])
    assert measured.deletion_area == pytest.approx([gained[-1] - by_hand])


def test_faithful_map_beats_chance_and_its_opposite_loses_to_it(weights: Tensor) -> None:
    good = over_pixels(weights)[None]
    options = {"paint": torch.zeros_like(images(1)), "seed": 3, "grid": GRID, "random_orders": 40}

    right = faithfulness(adding(weights), images(1), good, **options)
    wrong = faithfulness(adding(weights), images(1), 1 - good, **options)

    chance = float(right.by_chance.deletion_area[0])
    assert float(right.by_map.deletion_area[0]) < chance < float(wrong.by_map.deletion_area[0])
    assert float(right.by_map.insertion_area[0]) > float(right.by_chance.insertion_area[0])
    # Any order is as good as any other on average: half of the answer.
    assert chance == pytest.approx(float(weights.sum()) / 2, rel=0.05)


def test_flat_map_is_exactly_as_good_as_chance(weights: Tensor) -> None:
    measured = faithfulness(
        adding(weights), images(2), torch.full((2, SIDE_PX, SIDE_PX), 1 / 256), seed=5, grid=GRID,
        paint=torch.zeros_like(images(2)),
    )  # fmt: skip

    np.testing.assert_array_equal(measured.by_map.deletion, measured.by_chance.deletion)
    np.testing.assert_array_equal(measured.by_map.insertion, measured.by_chance.insertion)


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
    options = {"seed": 0, "grid": GRID, "steps": 8, "at_once": 7}

    together = faithfulness(counted, pictures, saliency, paint=1 - pictures, **options)

    assert sum(asked) == 3 * 2 * 9 * 2
    assert max(asked) == 7
    for row in range(3):
        only = slice(row, row + 1)
        alone = faithfulness(
            answer, pictures[only], saliency[only], paint=1 - pictures[only], **options
        )
        np.testing.assert_allclose(alone.by_map.deletion[0], together.by_map.deletion[row])


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
        ({"grid": (32, 32), "steps": 4}, "coarser grid"),
        ({"random_orders": 0}, "at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(
    weights: Tensor, change: dict[str, object], words: str
) -> None:
    options = {"paint": torch.zeros_like(images(1)), "seed": 0, "grid": GRID} | change
    with pytest.raises(DataError, match=words):
        faithfulness(adding(weights), images(1), torch.ones(1, SIDE_PX, SIDE_PX), **options)
