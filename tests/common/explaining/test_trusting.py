"""A map is held against random orders and against the maps of other pictures."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from small_network import drawn_pictures, small_network
from torch import Tensor

from common.errors import DataError
from common.explain import EXPLAINERS
from common.explain.baseline import blurred
from common.explaining.explain_picture import explain_picture
from common.explaining.other_pictures import MOST, OtherPictures
from common.explaining.picture_file import PreparedPicture
from common.explaining.question import Question
from common.explaining.trusting import ALONE, NO_OTHER_MAP, Measuring, Scales, trusted
from common.explanation.anatomy import WHOLE
from common.explanation.derived import area
from common.explanation.schema import Method
from common.explanation.written import written
from common.metrics.faithfulness import cell_ranks, curves_in_order, random_ranks
from common.metrics.stability import similarity
from common.package.loading import LoadedModel, network_input
from common.tasks import task_named

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
Drawn = Callable[..., PreparedPicture]


@pytest.fixture(scope="module")
def asked() -> Question:
    torch.set_num_threads(1)
    return Question(
        network=small_network(),
        image=drawn_pictures(1),
        sha256=f"{0:064x}",
        task=task_named("chestx", ("Effusion", "Mass", "Nodule")),
        logit=1,
        threshold=0.2,
        seed=3,
    )


@pytest.fixture
def plain() -> Method:
    return Method(
        name="evidence",
        map=None,
        failure="",
        seconds=0.1,
        energy_in_roi=None,
        agreement=None,
        completeness=None,
        faithfulness=None,
        stability=None,
        unmeasured="",
    )


def test_faithfulness_is_held_against_each_random_order(asked: Question, plain: Method) -> None:
    saliency = asked.saliency("evidence")

    found = trusted(plain, saliency, Scales(asked, Measuring(random_orders=3))).faithfulness

    assert found is not None
    paint = blurred(asked.image)
    own = curves_in_order(asked.probability, asked.image, cell_ranks(saliency, seed=3), paint=paint)
    # The orders one by one, each brought back in reverse as well.
    areas = []
    for number in range(3):
        ranks = random_ranks(1, seed=3, number=number)
        falling = curves_in_order(asked.probability, asked.image, ranks, paint=paint)
        rising = curves_in_order(asked.probability, asked.image, 255 - ranks, paint=paint)
        areas.append(float(falling.deletion_area[0]))
        assert rising.insertion_area[0] == pytest.approx(areas[-1], rel=1e-6)
    assert found.random_areas == pytest.approx(areas, rel=1e-5)
    beaten = [own.deletion_area[0] < area < own.insertion_area[0] for area in areas]
    assert found.beaten_orders == sum(beaten)
    assert np.trapezoid(found.random_deletion, found.shares) == pytest.approx(np.mean(areas))


@pytest.mark.parametrize("seed", range(6))
def test_a_flat_map_is_not_better_than_the_order_that_it_follows(
    asked: Question, plain: Method, seed: int
) -> None:
    flat = torch.full((1, 64, 64), 1 / 64**2)

    found = trusted(
        plain, flat, Scales(replace(asked, seed=seed), Measuring(random_orders=2))
    ).faithfulness

    assert found is not None
    assert written(area(found.shares, found.deletion)) == found.random_areas[0]
    assert found.beaten_orders < 2


def test_random_orders_are_walked_once_for_all_maps_of_a_picture(
    asked: Question, plain: Method
) -> None:
    pictures = 0

    def count(_module: object, inputs: tuple[Tensor, ...], _output: object) -> None:
        nonlocal pictures
        pictures += len(inputs[0])

    handle = asked.network.register_forward_hook(count)
    scales = Scales(asked, Measuring(random_orders=4))
    costs = []
    try:
        for _ in range(2):
            pictures = 0
            trusted(plain, asked.saliency("evidence"), scales)
            costs.append(pictures)
    finally:
        handle.remove()

    assert costs[0] - costs[1] == 4 * 17


def test_stability_is_held_against_other_pictures_maps(asked: Question, plain: Method) -> None:
    others = OtherPictures([picture(seed) for seed in (1, 2)], words="two others")
    saliency = asked.saliency("evidence")
    scales = Scales(asked, Measuring(random_orders=2, others=others))

    found = trusted(plain, saliency, scales).stability

    assert found is not None
    assert found.others == "two others"
    images = torch.cat([network_input(picture(seed).image[None]) for seed in (1, 2)])
    maps = EXPLAINERS.get("evidence")(asked.network, images, task="chestx", logit=1)
    expected = [float(similarity(saliency, one[None])[0]) for one in maps]
    assert found.other_pictures == pytest.approx(expected, rel=1e-5)
    assert min(found.noise, found.brightness) > max(found.other_pictures)  # it follows its picture


def test_a_picture_that_is_alone_says_so(asked: Question, plain: Method) -> None:
    same = replace(picture(1), sha256=asked.sha256)
    for others in (None, OtherPictures([same], words="itself")):
        scales = Scales(asked, Measuring(random_orders=2, others=others))
        found = trusted(plain, asked.saliency("evidence"), scales).stability
        assert found is not None
        assert (found.other_pictures, found.others) == ((), ALONE)


def test_other_pictures_are_a_few_different_ones_and_each_map_is_made_once(
    asked: Question, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, int]] = []
    known = EXPLAINERS.get

    def get(name: str) -> Callable[..., Tensor]:
        def counted(network: object, images: Tensor, *, task: str, logit: int) -> Tensor:
            calls.append((name, logit))
            return known(name)(network, images, task=task, logit=logit)  # type: ignore[arg-type]

        return counted

    monkeypatch.setattr(EXPLAINERS, "get", get)
    pictures = [picture(seed) for seed in range(MOST + 1)]
    others = OtherPictures([*pictures, *pictures], words="others")

    first = others.maps(asked, "evidence")  # the picture of seed 0 is the one asked about
    again = others.maps(replace(asked, sha256=pictures[1].sha256), "evidence")

    assert first.shape == again.shape == (MOST, 64, 64)
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], again[0])
    assert len(calls) == MOST + 1
    assert len(others.maps(replace(asked, sha256="f" * 64), "evidence")) == MOST
    others.maps(replace(asked, logit=0), "evidence")
    assert calls[MOST + 1 :] == [("evidence", 0)] * MOST


def test_others_that_a_method_cannot_explain_are_left_out(
    asked: Question, plain: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = OtherPictures([picture(1)], words="others")
    saliency = asked.saliency("evidence")
    known = EXPLAINERS.get
    other = network_input(picture(1).image[None])

    def get(name: str) -> Callable[..., Tensor]:
        def picky(network: object, images: Tensor, *, task: str, logit: int) -> Tensor:
            if torch.equal(images, other):
                raise RuntimeError("Smith^John")
            return known(name)(network, images, task=task, logit=logit)  # type: ignore[arg-type]

        return picky

    monkeypatch.setattr(EXPLAINERS, "get", get)

    scales = Scales(asked, Measuring(random_orders=2, others=others))
    found = trusted(plain, saliency, scales).stability

    assert found is not None
    assert (found.other_pictures, found.others) == ((), NO_OTHER_MAP)


def test_what_cannot_be_measured_says_why_and_the_map_stands(
    model: LoadedModel, drawn: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("Smith^John")

    monkeypatch.setattr("common.explaining.trusting.stability", broken)

    made = explain_picture(model, drawn(), task="pathoscan", now=NOW, trust="own", random_orders=2)

    own = made.findings[0].methods[0]
    assert own.map is not None
    assert own.faithfulness is not None
    assert own.stability is None
    assert own.unmeasured.startswith(
        "No stability: measuring it broke down (RuntimeError in common.explaining.trusting, line "
    )
    assert any(own.unmeasured in sentence.text for sentence in made.rationale)
    assert "Smith" not in made.model_dump_json()


def test_a_single_random_order_tells_too_little(model: LoadedModel, drawn: Drawn) -> None:
    with pytest.raises(DataError, match="1 random orders; give at least 2"):
        explain_picture(model, drawn(), task="pathoscan", now=NOW, trust="own", random_orders=1)


def picture(seed: int) -> PreparedPicture:
    """A prepared picture of noise, 64 px."""
    image = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return PreparedPicture(
        name=f"{seed}.png",
        sha256=f"{seed:064x}",
        width_px=64,
        height_px=64,
        image=image,
        skipped=(),
        extent=WHOLE,
        region=None,
        eye=None,
    )
