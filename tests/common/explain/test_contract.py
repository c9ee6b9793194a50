"""Every explanation method keeps one contract, whatever it does in between."""

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
import torch
from small_network import drawn_pictures, small_network
from torch import Tensor, nn

from common.explain import EXPLAINERS, corrected, gradient_shap, lime, smooth_grad
from common.model.network import Network

SIDE_PX = 32  # as small as the network reads, for methods that ask it hundreds of times
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

every_method = pytest.mark.parametrize("method", list(EXPLAINERS))


@pytest.fixture(autouse=True, scope="module")
def few_samples() -> Iterator[None]:
    """The contract does not hang on how often a method asks the network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(lime.weights_of.__kwdefaults__, "evaluations", 32)
        patch.setattr(smooth_grad, "SAMPLES", 4)
        patch.setattr(gradient_shap, "SAMPLES", 8)
        patch.setattr(gradient_shap, "SAMPLES_AT_ONCE", 4)
        patch.setattr(corrected, "SAMPLES", 2)
        yield


@pytest.fixture
def images() -> Tensor:
    return drawn_pictures(2, side_px=SIDE_PX)


@cache
def expected(method: str) -> Tensor:
    """Maps of both pictures by a network in evaluation mode, (2, H, W)."""
    images = drawn_pictures(2, side_px=SIDE_PX)
    return EXPLAINERS.get(method)(small_network(), images, task="chestx", logit=1)


def hooks_of(network: nn.Module) -> int:
    return sum(len(getattr(module, kind)) for module in network.modules() for kind in HOOKS)


@every_method
def test_maps_are_shares_of_one_over_the_picture(images: Tensor, method: str) -> None:
    maps = expected(method)

    assert maps.shape == (2, SIDE_PX, SIDE_PX)
    assert maps.dtype == images.dtype
    assert bool((maps >= 0).all())
    assert torch.allclose(maps.sum(dim=(1, 2)), torch.ones(2), atol=1e-5)
    assert not maps.requires_grad


@every_method
@pytest.mark.parametrize(("task", "logit"), [("chestx", 2), ("retina", 0), ("pathoscan", 0)])
def test_every_logit_of_every_task_has_a_map_of_its_own(
    network: Network, images: Tensor, method: str, task: str, logit: int
) -> None:
    maps = EXPLAINERS.get(method)(network, images[:1], task=task, logit=logit)

    assert bool((maps >= 0).all())
    assert float(maps.sum()) == pytest.approx(1, abs=1e-5)
    assert not torch.allclose(maps[0], expected(method)[0])


@every_method
def test_a_map_depends_neither_on_other_pictures_nor_on_chance(
    network: Network, images: Tensor, method: str
) -> None:
    torch.manual_seed(2)
    np.random.seed(2)

    alone = EXPLAINERS.get(method)(network, images[1:], task="chestx", logit=1)

    assert torch.allclose(alone[0], expected(method)[1], atol=1e-5)
    assert not torch.allclose(alone[0], expected(method)[0], atol=1e-5)


@every_method
def test_the_same_question_has_the_same_answer_to_the_bit(images: Tensor, method: str) -> None:
    again = EXPLAINERS.get(method)(small_network(), images, task="chestx", logit=1)

    assert torch.equal(again, expected(method))


@every_method
def test_a_network_in_training_is_explained_in_evaluation_mode_and_left_as_it_came(
    network: Network, images: Tensor, method: str
) -> None:
    network.train()
    network.trunk.project_deep.eval()
    network.trunk.project_evidence.requires_grad_(False)
    network(images, task="chestx").logits.sum().backward()
    seen_training: list[bool] = []
    network.trunk.transformer.register_forward_pre_hook(
        lambda module, _: seen_training.append(module.training)
    )
    before = {
        "modes": [module.training for module in network.modules()],
        "wanted": [parameter.requires_grad for parameter in network.parameters()],
        "has gradient": [parameter.grad is not None for parameter in network.parameters()],
        "hooks": hooks_of(network),
    }
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    gathered = [p.grad.clone() for p in network.parameters() if p.grad is not None]

    maps = EXPLAINERS.get(method)(network, images[:1], task="chestx", logit=1)

    assert seen_training
    assert not any(seen_training)
    assert torch.allclose(maps[0], expected(method)[0], atol=1e-6)
    assert before == {
        "modes": [module.training for module in network.modules()],
        "wanted": [parameter.requires_grad for parameter in network.parameters()],
        "has gradient": [parameter.grad is not None for parameter in network.parameters()],
        "hooks": hooks_of(network),
    }
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())
    left = [p.grad for p in network.parameters() if p.grad is not None]
    assert all(torch.equal(now, then) for now, then in zip(left, gathered, strict=True))


@every_method
def test_pictures_and_the_callers_random_numbers_are_left_as_they_came(
    network: Network, images: Tensor, method: str
) -> None:
    shown, random = images.clone(), torch.get_rng_state()
    _, keys, position, *_ = np.random.get_state()

    with torch.inference_mode():  # a caller without gradients, and a picture that can have none
        unable = images[:1] + 0.0
        maps = EXPLAINERS.get(method)(network, unable, task="chestx", logit=1)
        assert not torch.is_grad_enabled()

    assert torch.allclose(maps[0], expected(method)[0], atol=1e-6)
    assert torch.equal(unable, shown[:1])
    assert torch.equal(images, shown)
    assert not images.requires_grad
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), random)
    _, keys_after, position_after, *_ = np.random.get_state()
    assert np.array_equal(keys_after, keys)
    assert position_after == position
    assert all(parameter.grad is None for parameter in network.parameters())


@every_method
def test_picture_in_which_nothing_speaks_for_the_logit_has_a_map_of_zeros(
    network: Network, images: Tensor, method: str
) -> None:
    with torch.no_grad():
        for parameter in network.heads["pathoscan"].parameters():
            parameter.zero_()
        # The same everywhere and against the logit, whatever is painted over.
        network.get_parameter("heads.pathoscan.parts.evidence.bias").fill_(-1.0)

    maps = EXPLAINERS.get(method)(network, images, task="pathoscan", logit=0)

    assert torch.equal(maps, torch.zeros_like(images[:, 0]))


@every_method
def test_a_method_that_fails_leaves_the_network_as_it_came(
    network: Network, images: Tensor, method: str
) -> None:
    network.train()
    hooks, random = hooks_of(network), torch.get_rng_state()

    with pytest.raises(IndexError):  # there is no such logit
        EXPLAINERS.get(method)(network, images[:1], task="pathoscan", logit=7)

    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert hooks_of(network) == hooks
    assert torch.equal(torch.get_rng_state(), random)
