"""SmoothGrad, GradientSHAP and smoothed integrated gradients, where the answer is known."""

import pytest
import torch
from small_network import drawn_pictures
from torch import Tensor

from common.explain import corrected, gradient_shap, smooth_grad
from common.explain.baseline import blurred, mean_colour
from common.explain.gradient import slopes_of
from common.explain.gradient_shap import attribute, expected_gradients
from common.explain.smooth_grad import smoothed_slopes_of
from common.machine.seed import derive_seed, generator
from common.model.network import Network

WEIGHT = torch.linspace(-1, 1, 3 * 256).reshape(3, 16, 16)


def linear(pictures: Tensor) -> Tensor:
    return (pictures * WEIGHT).sum(dim=(1, 2, 3))


def test_plain_gradient_is_torchs_own_whatever_the_size_of_the_batch() -> None:
    images = drawn_pictures(40, side_px=8).requires_grad_()
    (expected,) = torch.autograd.grad((images**3).sum(), images)

    found = slopes_of(lambda x: (x**3).sum(dim=(1, 2, 3)), images)

    assert torch.allclose(found, expected)


def test_smoothed_gradient_is_the_mean_over_the_drawn_noise() -> None:
    images = drawn_pictures(2, side_px=8)
    noises = []
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(0, "explain", "smooth-grad"))
        for _ in range(smooth_grad.SAMPLES // smooth_grad.SAMPLES_AT_ONCE):
            ones = torch.ones(smooth_grad.SAMPLES_AT_ONCE, 3, 8, 8)
            noises.append(torch.normal(0, ones))
    noise = torch.cat(noises)

    found = smoothed_slopes_of(lambda x: (x**3).sum(dim=(1, 2, 3)), images)

    for picture, slopes in zip(images, found, strict=True):
        size = smooth_grad.NOISE_SHARE * (picture.max() - picture.min())
        assert torch.allclose(slopes, (3 * (picture + size * noise) ** 2).mean(dim=0), atol=1e-5)


def test_smoothing_takes_the_ripple_and_leaves_the_slope() -> None:
    images = drawn_pictures(1, side_px=16)

    def rippled(pictures: Tensor) -> Tensor:  # gradient: 1 plus a cosine of size 2, fast in x
        return (pictures + 0.05 * (40 * pictures).sin()).sum(dim=(1, 2, 3))

    plain = slopes_of(rippled, images)
    smooth = smoothed_slopes_of(rippled, images)

    assert float((plain - 1).abs().mean()) > 1
    assert float((smooth - 1).abs().mean()) < 0.35


def test_of_a_linear_score_gradient_shap_is_weight_times_difference_up_to_its_noise() -> None:
    images, start = drawn_pictures(2, side_px=16), torch.full((1, 3, 16, 16), 0.5)

    found = expected_gradients(linear, images, start)

    spread = images.amax(dim=(1, 2, 3)) - images.amin(dim=(1, 2, 3))
    allowed = 5 * gradient_shap.NOISE_SHARE * spread / gradient_shap.SAMPLES**0.5
    error = (found.values - WEIGHT * (images - start)).abs()
    assert bool((error <= allowed[:, None, None, None] * WEIGHT.abs() + 1e-6).all())
    assert float(error.max()) > 1e-4  # there is noise
    assert torch.allclose(found.difference, linear(images) - linear(start), atol=1e-4)


def test_gradient_shap_starts_from_blurred_picture_and_mean_colour(
    network: Network, images: Tensor
) -> None:
    with torch.no_grad():
        whole, blur, colour = (
            network(pictures, task="chestx").logits[:, 1]
            for pictures in (images, blurred(images), mean_colour(images))
        )

    found = attribute(network, images, task="chestx", logit=1)

    expected = whole - (blur + colour) / 2
    assert torch.allclose(found.difference, expected, atol=1e-5)
    missing = (found.values.sum(dim=(1, 2, 3)) - expected).abs()
    assert torch.allclose(found.gap, missing / expected.abs().clamp(min=0.1), atol=1e-4)
    assert bool((found.gap < 1).all())  # an estimate, but of this


def test_smoothed_integrated_gradients_are_the_mean_over_the_drawn_noise() -> None:
    images, start = drawn_pictures(2, side_px=8), torch.full((2, 3, 8, 8), 0.3)
    draw = generator(derive_seed(0, "explain", "integrated-gradients-smoothed"))
    noise = torch.stack([torch.randn(3, 8, 8, generator=draw) for _ in range(corrected.SAMPLES)])

    found = corrected.along_noisy_paths(lambda x: (x**3).sum(dim=(1, 2, 3)), images, start)

    for number, picture in enumerate(images):
        noisy = picture + corrected.NOISE_SHARE * (picture.max() - picture.min()) * noise
        expected = (noisy**3).mean(dim=0) - 0.3**3
        assert torch.allclose(found.values[number], expected, atol=1e-4)
        assert float(found.difference[number]) == pytest.approx(float(expected.sum()), abs=1e-2)
