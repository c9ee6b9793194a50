"""Agreement of two maps: against scipy, against counting by hand, and where nothing is named."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from common.errors import DataError
from common.metrics.agreement import agreement, agreement_estimates, on_coarser_grid


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_rank_correlation_is_scipys_with_ties() -> None:
    first, second = (drawn(3, 8, 8, seed=seed).mul(4).round() for seed in (0, 1))

    measured = agreement(first, second).spearman

    expected = [
        spearmanr(one.flatten(), two.flatten()).statistic
        for one, two in zip(first.numpy(), second.numpy(), strict=True)
    ]
    np.testing.assert_allclose(measured, expected, atol=1e-12)


def test_maps_are_compared_on_the_coarser_of_their_grids() -> None:
    coarse = drawn(2, 4, 4, seed=0)
    fine = coarse.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2) / 64
    checks = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2.0  # means 1 in each cell

    one, other = on_coarser_grid(coarse, fine * checks)

    assert one.shape == other.shape == (2, 4, 4)
    np.testing.assert_allclose(other, one / 64, atol=1e-9)
    assert agreement(coarse, fine * checks).spearman == pytest.approx([1, 1])


def test_overlap_of_the_strongest_cells_is_counted() -> None:
    first, second = torch.zeros(1, 10, 10), torch.zeros(1, 10, 10)
    first[0, 0, :10] = torch.arange(10) + 1.0  # its ten strongest: the first row
    second[0, 0, :5] = 2.0
    second[0, 1, :5] = 3.0

    measured = agreement(first, second)

    assert measured.top_iou == pytest.approx([5 / 15])
    assert measured.top_iou_chance == pytest.approx(0.1 / 1.9)


def test_overlap_of_independent_maps_is_what_chance_says() -> None:
    first, second = drawn(300, 20, 20, seed=0), drawn(300, 20, 20, seed=1)

    measured = agreement(first, second)

    assert measured.top_iou.mean() == pytest.approx(measured.top_iou_chance, abs=0.005)
    assert measured.spearman.mean() == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("nothing", [0.0, float("nan")])
def test_map_that_names_no_place_neither_agrees_nor_disagrees(nothing: float) -> None:
    maps = drawn(2, 8, 8, seed=0)
    maps[1] = nothing

    measured = agreement(maps, drawn(2, 8, 8, seed=1))
    estimates = agreement_estimates(
        measured, np.arange(2), replicates=0, min_patients=2, rng=np.random.default_rng(0)
    )

    assert np.isnan(measured.spearman).tolist() == [False, True]
    assert np.isnan(measured.top_iou).tolist() == [False, True]
    assert estimates["spearman"].support == 1
    assert estimates["top_iou"].chance == pytest.approx(measured.top_iou_chance)


def test_maps_of_different_pictures_are_refused() -> None:
    with pytest.raises(DataError, match="same pictures"):
        agreement(drawn(2, 8, 8, seed=0), drawn(3, 8, 8, seed=0))
