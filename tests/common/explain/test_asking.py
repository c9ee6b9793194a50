"""A method and an answer with everything decided but the pictures."""

import pytest
import torch
from small_network import drawn_pictures, small_network
from torch import Tensor

from common.errors import ExplanationError
from common.explain.asking import AT_ONCE, answer_of, bound, in_batches
from common.model.network import Network
from common.tasks import task_named


def test_the_answer_is_the_class_s_probability_and_of_a_grade_that_of_the_middle_question() -> None:
    network, pictures = small_network(), drawn_pictures(2)
    with torch.no_grad():
        chest = network(pictures, task="chestx").class_logits.sigmoid()
        retina = network(pictures, task="retina").class_logits.sigmoid()
        task = task_named("chestx", ("Effusion", "Mass", "Nodule"))
        torch.testing.assert_close(answer_of(network, task, 2)(pictures), chest[:, 2])
        grade = answer_of(network, task_named("retina", None), 0)(pictures)
    torch.testing.assert_close(grade, retina[:, 1])  # grade 2 or worse


def test_a_method_is_asked_about_its_logit() -> None:
    asked: list[tuple[str, int]] = []

    def explain(_: Network, images: Tensor, *, task: str, logit: int) -> Tensor:
        asked.append((task, logit))
        return images.mean(dim=1)

    network = small_network()
    method = bound(explain, network, task_named("chestx", ("Effusion", "Mass", "Nodule")), 1)
    pictures = drawn_pictures(2)
    torch.testing.assert_close(method(pictures), pictures.mean(dim=1))
    assert asked == [("chestx", 1)]


@pytest.mark.parametrize("what", ["shape", "not finite"])
def test_a_map_that_breaks_the_contract_is_refused(what: str) -> None:
    def explain(_: Network, images: Tensor, *, task: str, logit: int) -> Tensor:
        del task, logit
        maps = images.mean(dim=1)
        return maps[:, 1:] if what == "shape" else maps / 0

    method = bound(explain, small_network(), task_named("pathoscan", None), 0)
    with pytest.raises(ExplanationError, match=r"finite and of shape \(1, 64, 64\)"):
        method(drawn_pictures(1))


def test_many_pictures_are_asked_about_a_few_at_a_time() -> None:
    sizes: list[int] = []

    def method(pictures: Tensor) -> Tensor:
        sizes.append(len(pictures))
        return pictures.sum(dim=1)

    pictures = torch.rand(AT_ONCE + 3, 3, 4, 4)
    torch.testing.assert_close(in_batches(method)(pictures), pictures.sum(dim=1))
    assert sizes == [AT_ONCE, 3]
