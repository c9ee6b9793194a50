"""Concept heads: exact parts, weights that disturb no others, and silence until taught."""

from collections.abc import Callable

import pytest
import torch

from common.config.model import ModelConfig
from common.errors import ModelError
from common.model.layers import group_of, is_of_concepts
from common.model.network import Network, build_network
from common.model.parameters import parameters_of
from common.tasks import TASKS

Configured = Callable[..., ModelConfig]
OFF = {"concepts": {"chestx": False}}


@pytest.fixture
def network(configured: Configured) -> Network:
    return build_network(configured("tiny"), TASKS, seed=5).eval()


def pictures() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_all_other_weights_are_the_same_with_concepts_and_without(
    configured: Configured, network: Network
) -> None:
    without = build_network(configured("tiny", concepts={}), TASKS, seed=5).state_dict()
    with_them = network.state_dict()
    assert {name for name in with_them if name not in without} == {
        f"heads.{task}.concepts.{array}"
        for task in TASKS
        for array in ("evidence.weight", "evidence.bias", "gate.weight")
    }
    assert all(torch.equal(with_them[name], value) for name, value in without.items())


def test_a_head_does_not_depend_on_the_other_tasks(
    configured: Configured, network: Network
) -> None:
    alone = build_network(configured("tiny"), {"retina": TASKS["retina"]}, seed=5).state_dict()
    both = network.state_dict()
    assert all(torch.equal(both[name], value) for name, value in alone.items())


@pytest.mark.parametrize("task", TASKS)
def test_a_concept_that_nobody_taught_says_exactly_nothing(network: Network, task: str) -> None:
    with torch.inference_mode():
        output = network(pictures(), task=task)
    assert output.concept_logits.shape == (2, len(TASKS[task].concepts))
    assert (output.concept_logits == 0).all()
    assert (output.concept_maps == 0).all()


def test_a_concepts_logit_is_the_sum_of_its_map(network: Network) -> None:
    with torch.no_grad():
        for name, value in network.named_parameters():
            if is_of_concepts(name):
                value.normal_(generator=torch.Generator().manual_seed(1))
        output = network(pictures(), task="retina")
    shape = (2, 5, 8, 8)
    assert output.concept_maps.shape == output.concept_evidence.shape == shape
    torch.testing.assert_close(output.concept_maps.sum(dim=(2, 3)), output.concept_logits)
    torch.testing.assert_close(output.concept_maps, output.concept_gate * output.concept_evidence)
    torch.testing.assert_close(output.concept_gate.sum(dim=(2, 3)), torch.ones(2, 5))
    assert output.concept_logits.abs().min() > 0


def test_concepts_are_off_where_the_configuration_says_so(configured: Configured) -> None:
    network = build_network(configured("tiny", **OFF), TASKS, seed=5)
    with torch.inference_mode():
        output = network(pictures(), task="chestx")
    assert output.concept_logits.shape == (2, 0)
    assert output.concept_maps.shape == (2, 0, 8, 8)
    assert not any(map(is_of_concepts, network.state_dict()))


def test_an_unknown_task_is_named(configured: Configured) -> None:
    with pytest.raises(ModelError, match="task in concepts"):
        build_network(configured("tiny", concepts={"retinaa": True}), TASKS, seed=5)


def test_concepts_travel_and_are_trained_with_their_tasks_head(network: Network) -> None:
    trained = parameters_of(network, TASKS["retina"])
    own = [name for name in trained if is_of_concepts(name)]
    assert len(own) == 3
    assert {group_of(name) for name in own} == {"retina"}
    assert not is_of_concepts("heads.retina.parts.evidence.weight")
