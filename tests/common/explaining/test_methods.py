"""A method that fails says why in its place; maps are reduced without losing their total."""

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from torch import Tensor

from common.errors import ExplanationError
from common.explain import EXPLAINERS
from common.explaining.explain_picture import explain_picture
from common.explaining.methods import reduced
from common.explaining.picture_file import PreparedPicture
from common.explaining.sums import ATTRIBUTORS
from common.package.loading import LoadedModel

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
Drawn = Callable[..., PreparedPicture]


def breaking(error: Exception) -> Callable[[str], object]:
    """What a table gives for every name: a method that raises."""

    def refuse(*_: object, **__: object) -> Tensor:
        raise error

    return lambda _: refuse


def test_a_method_that_cannot_explain_says_why_and_the_others_go_on(
    model: LoadedModel, drawn: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = ExplanationError("layer Mixer has no rule; leave lrp out.")
    monkeypatch.setattr(ATTRIBUTORS, "get", breaking(why))

    made = explain_picture(
        model,
        drawn(),
        task="pathoscan",
        now=NOW,
        methods=("lrp", "occlusion"),
        trust="all",
        random_orders=2,
    )

    own, failed, worked = made.findings[0].methods
    assert (failed.name, failed.map) == ("lrp", None)
    assert failed.failure == "layer Mixer has no rule; leave lrp out."
    assert (own.failure, worked.failure) == ("", "")
    assert worked.map is not None
    assert worked.faithfulness is not None
    assert any(failed.failure in sentence.text for sentence in made.rationale)


@pytest.mark.parametrize("error", [RuntimeError, ValueError, AssertionError])
def test_a_method_that_breaks_down_is_a_named_absence_that_repeats_no_words(
    model: LoadedModel, drawn: Drawn, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    monkeypatch.setattr(ATTRIBUTORS, "get", breaking(error("Smith^John, born 1951")))

    made = explain_picture(model, drawn(), task="pathoscan", now=NOW, methods=("lrp", "occlusion"))

    _, failed, worked = made.findings[0].methods
    assert (failed.name, failed.map) == ("lrp", None)
    assert f"broke down on this picture ({error.__name__} in common.explaining.sums," in (
        failed.failure
    )
    assert worked.map is not None
    assert "Smith" not in made.model_dump_json()


def test_a_map_of_numbers_that_are_not_finite_is_an_absence_too(
    model: LoadedModel, drawn: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = EXPLAINERS.get

    def damaged(*_: object, **__: object) -> Tensor:
        return torch.full((1, 64, 64), torch.nan)

    monkeypatch.setattr(EXPLAINERS, "get", lambda name: damaged if name == "lime" else known(name))

    made = explain_picture(model, drawn(), task="pathoscan", now=NOW, methods=("lime",))

    assert made.findings[0].methods[1].map is None
    assert "not finite" in made.findings[0].methods[1].failure


def test_without_memory_nothing_goes_on(
    model: LoadedModel, drawn: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ATTRIBUTORS, "get", breaking(MemoryError()))  # type: ignore[arg-type]

    with pytest.raises(MemoryError):
        explain_picture(model, drawn(), task="pathoscan", now=NOW, methods=("lrp",))


@pytest.mark.parametrize("side", [32, 64, 96, 256])
def test_a_map_is_reduced_by_area_and_keeps_where_its_weight_is(side: int) -> None:
    generator = torch.Generator().manual_seed(side)
    saliency = torch.rand((side, side), generator=generator)
    saliency /= saliency.sum()

    cells = reduced(saliency)

    assert cells.rows == min(64, side)
    values = np.array(cells.values).reshape(cells.rows, cells.columns)
    assert values.sum() == pytest.approx(1, abs=1e-4)
    half = values[: cells.rows // 2].sum()
    assert half == pytest.approx(float(saliency[: side // 2].sum()), abs=1e-4)


def test_an_empty_map_stays_empty() -> None:
    assert set(reduced(torch.zeros(128, 128)).values) == {0.0}
