"""What a map adds up to is measured of the very map that is shown."""

import pytest
import torch
from small_network import drawn_pictures, small_network

from common.explain import EXPLAINERS
from common.explain.baseline import blurred, mean_colour
from common.explaining.question import Question
from common.explaining.sums import ATTRIBUTORS, completeness, mapped
from common.model.network import Network
from common.tasks import task_named


@pytest.fixture(scope="module")
def network() -> Network:
    torch.set_num_threads(1)
    return small_network()


@pytest.fixture
def asked(network: Network) -> Question:
    return Question(
        network=network,
        image=drawn_pictures(1),
        sha256="a" * 64,
        task=task_named("pathoscan", None),
        logit=0,
        threshold=0.0,
        seed=1,
    )


@pytest.mark.parametrize("name", list(ATTRIBUTORS))
def test_the_map_is_the_methods_own_and_the_whole_is_a_difference_of_logits(
    asked: Question, name: str
) -> None:
    found = mapped(asked, name)

    own = EXPLAINERS.get(name)(asked.network, asked.image, task="pathoscan", logit=0)
    torch.testing.assert_close(found.saliency, own)
    assert found.completeness is not None
    with torch.no_grad():
        pictures = [asked.image, blurred(asked.image), mean_colour(asked.image)]
        logit, of_blurred, of_colour = (float(asked.score(one)) for one in pictures)
    expected = {"lrp": logit, "gradient-shap": logit - (of_blurred + of_colour) / 2}
    assert found.completeness.whole == pytest.approx(
        expected.get(name, logit - of_blurred), abs=1e-5
    )


def test_what_is_asserted_is_complete_and_deep_lift_is_not(asked: Question) -> None:
    gaps = {}
    for name in ATTRIBUTORS:
        sums = mapped(asked, name).completeness
        assert sums is not None
        gaps[name] = sums.gap
        missing = abs(sums.parts + sums.constants - sums.whole)
        assert sums.gap == pytest.approx(missing / max(abs(sums.whole), 0.1), rel=1e-4, abs=1e-9)
        assert (sums.constants != 0) is (name == "lrp")
    assert gaps["lrp"] < 1e-3
    assert gaps["integrated-gradients"] <= 0.05
    assert gaps["deep-lift"] > 0.05


def test_a_method_without_a_sum_promises_none(asked: Question) -> None:
    assert mapped(asked, "occlusion").completeness is None


def test_a_gap_is_held_against_a_tenth_of_a_logit_at_least() -> None:
    assert completeness(parts=1.0, constants=0.5, whole=2.0, of="x").gap == 0.25
    assert completeness(parts=-0.03, constants=0.0, whole=0.02, of="x").gap == 0.5
