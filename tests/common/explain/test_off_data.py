"""Projections are projections, and corrected methods use them where they say."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn
from sklearn.decomposition import PCA
from small_network import drawn_pictures
from torch import Tensor

from common.errors import ExplanationError
from common.explain.baseline import blurred
from common.explain.corrected import attribute_projected
from common.explain.gradient import slopes_of
from common.explain.integrated_gradients import attribute
from common.explain.off_data import KEPT_SHARE, principal_components, projected, slow_waves
from common.model.network import Network

SIDE_PX = 16


def reference_projection(pictures: Tensor) -> Tensor:
    return principal_components(drawn_pictures(9, side_px=SIDE_PX), count=5)(pictures)


projections = pytest.mark.parametrize("project", [slow_waves, reference_projection])


@projections
def test_what_is_projected_stays_when_it_is_projected_again(project: type[Tensor]) -> None:
    images = drawn_pictures(2, side_px=SIDE_PX)

    once = project(images)

    assert torch.allclose(project(once), once, atol=1e-5)
    assert not torch.allclose(once, images, atol=0.1)


@projections
def test_what_is_cut_off_is_orthogonal_to_what_is_kept(project: type[Tensor]) -> None:
    images = drawn_pictures(2, side_px=SIDE_PX)

    kept = project(images)

    products = ((images - kept) * kept).sum(dim=(1, 2, 3))
    assert bool((products.abs() < 1e-3).all())


def test_slow_waves_are_scipys_first_cosines() -> None:
    images = drawn_pictures(2, side_px=SIDE_PX)
    waves = dctn(images.double().numpy(), axes=(2, 3), norm="ortho")
    kept = round(KEPT_SHARE * SIDE_PX)
    waves[:, :, kept:], waves[:, :, :, kept:] = 0, 0

    found = slow_waves(images)

    assert np.allclose(found, idctn(waves, axes=(2, 3), norm="ortho"), atol=1e-5)


def test_even_colour_stays_and_a_chessboard_goes() -> None:
    even = torch.full((1, 3, SIDE_PX, SIDE_PX), 0.7)
    rows, columns = torch.meshgrid(torch.arange(SIDE_PX), torch.arange(SIDE_PX), indexing="ij")
    chessboard = ((rows + columns) % 2 * 2.0 - 1).expand(1, 3, -1, -1)

    assert torch.allclose(slow_waves(even), even, atol=1e-6)
    assert float(slow_waves(chessboard).abs().max()) < 0.1


def test_principal_components_are_scikit_learns() -> None:
    pictures = drawn_pictures(12, side_px=8) * torch.linspace(0.1, 2, 64).reshape(8, 8)
    asked = drawn_pictures(3, side_px=8)
    directions = PCA(4).fit(pictures.flatten(1).numpy()).components_
    expected = asked.flatten(1).numpy() @ directions.T @ directions

    found = principal_components(pictures, count=4)(asked)

    assert np.allclose(found.flatten(1), expected, atol=1e-4)


@pytest.mark.parametrize("count", [0, 9, 20])
def test_more_directions_than_pictures_give_are_refused(count: int) -> None:
    with pytest.raises(ExplanationError, match=f"{count} directions cannot be had from 9"):
        principal_components(drawn_pictures(9, side_px=8), count=count)


def test_references_of_another_size_are_refused() -> None:
    project = principal_components(drawn_pictures(4, side_px=8), count=2)

    with pytest.raises(ExplanationError, match=r"\(3, 8, 8\), these are \(3, 16, 16\)"):
        project(drawn_pictures(1, side_px=16))


def test_projected_score_has_the_same_values_and_the_projected_gradient() -> None:
    images = drawn_pictures(2, side_px=SIDE_PX)

    def score(pictures: Tensor) -> Tensor:
        return (pictures**3).sum(dim=(1, 2, 3))

    tangent = projected(score, slow_waves)

    assert torch.equal(tangent(images), score(images))
    assert torch.allclose(slopes_of(tangent, images), slow_waves(3 * images**2), atol=1e-5)


def test_a_slope_that_no_picture_takes_is_corrected_away() -> None:
    # Pictures of slow waves only; the score has learned one, and hums along a fast one.
    images = slow_waves(drawn_pictures(2, side_px=SIDE_PX))
    learned = slow_waves(drawn_pictures(1, side_px=SIDE_PX))[0]
    fast = drawn_pictures(1, side_px=SIDE_PX)[0] * 5
    fast = fast - slow_waves(fast[None])[0]

    def score(pictures: Tensor) -> Tensor:
        return (pictures * (learned + fast)).sum(dim=(1, 2, 3))

    plain, corrected = slopes_of(score, images), slopes_of(projected(score, slow_waves), images)

    assert float((plain - learned).abs().mean()) > 10 * float((corrected - learned).abs().mean())


def test_projected_integrated_gradients_differ_from_plain_ones_by_their_gap(
    network: Network, images: Tensor
) -> None:
    plain = attribute(network, images, task="chestx", logit=0)

    found = attribute_projected(network, images, task="chestx", logit=0)

    # A symmetric projection of one factor is one of the other: Σ P(g)·d = Σ g·P(d).
    away = images - blurred(images)
    mean_gradient = plain.values / away.where(away.abs() > 1e-6, 1e-6)
    expected = (mean_gradient * slow_waves(away)).sum(dim=(1, 2, 3))
    assert torch.allclose(found.values.sum(dim=(1, 2, 3)), expected, rtol=1e-2, atol=1e-3)
    missing = (expected - plain.difference).abs() / plain.difference.abs().clamp(min=0.1)
    assert torch.allclose(found.gap, missing, rtol=2e-2, atol=1e-2)
    assert bool((found.gap > plain.gap).all())
