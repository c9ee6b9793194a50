"""Signs bear on an answer as they did on the calibration part, where they are, and nowhere else."""

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest
import torch

from common.explaining.explain_picture import explain_picture
from common.explaining.picture_file import PreparedPicture
from common.explaining.signs import overlap_of, stance
from common.explanation.schema import Stance
from common.package.loading import LoadedModel, network_input
from small_model import small_model

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
Drawn = Callable[..., PreparedPicture]


@pytest.mark.parametrize(
    ("probability", "overlap", "association", "wanted"),
    [
        (0.9, 0.5, 0.6, "supports"),
        (0.9, 0.01, 0.6, "neither"),  # it is there, but elsewhere
        (0.1, 0.5, 0.6, "against"),  # what usually goes along is missing
        (0.9, 0.5, -0.6, "against"),
        (0.1, 0.5, -0.6, "neither"),
        (0.9, 0.5, 0.1, "neither"),
        (0.9, 0.5, None, "unknown"),
        # On either side of each limit.
        (0.5, 0.1, 0.2, "supports"),
        (0.9, 0.1, 0.19, "neither"),
        (0.9, 0.09, 0.2, "neither"),
        (0.49, 0.5, 0.2, "against"),
        (0.5, 0.5, -0.2, "against"),
    ],
)
def test_what_a_sign_does_for_an_answer(
    probability: float, overlap: float, association: float | None, wanted: Stance
) -> None:
    assert stance(probability=probability, overlap=overlap, association=association) == wanted


def test_overlap_counts_positive_evidence_in_the_same_places() -> None:
    first = np.array([[2.0, 2.0], [-9.0, 0.0]])

    assert overlap_of(first, first) == 1
    assert overlap_of(first, np.array([[0.0, -1.0], [3.0, 1.0]])) == 0
    assert overlap_of(first, np.array([[1.0, 0.0], [0.0, 3.0]])) == pytest.approx(0.25)
    assert overlap_of(first, np.zeros((2, 2))) == 0


@pytest.mark.parametrize("task", ["chestx", "retina", "pathoscan"])
def test_concepts_are_what_their_heads_saw(model: LoadedModel, drawn: Drawn, task: str) -> None:
    picture = drawn()

    made = explain_picture(model, picture, task=task, now=NOW)

    with torch.no_grad():
        output = model.network(network_input(picture.image[None]), task=task)
    names = [concept.name for concept in made.findings[0].concepts]
    assert names == list(model.task(task).concepts)
    for place, concept in enumerate(made.findings[0].concepts):
        assert concept.probability == pytest.approx(
            float(output.concept_logits[0, place].sigmoid()), rel=1e-5
        )
        assert np.allclose(
            concept.map.values, output.concept_maps[0, place].flatten(), rtol=1e-5, atol=1e-9
        )
    stances = [concept.stance for concept in made.findings[0].concepts]
    assert all(stance != "unknown" for stance in stances[:2])  # associations are known of two
    assert all(stance == "unknown" for stance in stances[2:])


def test_a_concept_that_nobody_has_taught_is_left_out(drawn: Drawn) -> None:
    model = small_model()
    with torch.no_grad():
        for name in ("weight", "bias"):
            row = model.network.get_parameter(f"heads.retina.concepts.evidence.{name}")
            row[1] = 0

    made = explain_picture(model, drawn(), task="retina", now=NOW)

    names = list(model.task("retina").concepts)
    assert [concept.name for concept in made.findings[0].concepts] == [names[0], *names[2:]]
