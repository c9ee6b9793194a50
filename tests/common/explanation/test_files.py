"""An explanation reads back as it was written, and nothing else is taken for one."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from common.errors import DataError
from common.explanation.files import read_explanation
from common.explanation.schema import Explanation, GridMap
from sample import sample


@pytest.mark.parametrize("task", ["chestx", "retina", "pathoscan"])
def test_an_explanation_reads_back_to_the_last_digit(tmp_path: Path, task: str) -> None:
    (tmp_path / "one.json").write_text(sample(task).model_dump_json(indent=1))

    assert read_explanation(tmp_path / "one.json") == sample(task)


def test_what_is_no_explanation_is_refused_by_name(tmp_path: Path) -> None:
    document = sample().model_dump(mode="json")
    document["picture"]["size_px"] = "large"
    (tmp_path / "bad.json").write_text(json.dumps(document))

    with pytest.raises(DataError, match=r"bad\.json.*picture/size_px"):
        read_explanation(tmp_path / "bad.json")
    with pytest.raises(DataError, match=r"none\.json.*cannot be read"):
        read_explanation(tmp_path / "none.json")


def test_no_number_of_an_explanation_is_infinite_or_missing() -> None:
    document = sample().model_dump()
    document["novelty"]["score"] = float("inf")

    with pytest.raises(ValidationError, match="finite"):
        Explanation.model_validate(document)


def test_a_map_must_have_a_value_for_every_cell() -> None:
    with pytest.raises(ValidationError, match="needs 6 values, got 5"):
        GridMap(rows=2, columns=3, unit="shares", values=(0.2,) * 5)


@pytest.mark.parametrize("task", ["chestx", "retina", "pathoscan"])
def test_no_number_has_more_than_six_digits(task: str) -> None:
    numbers = json.loads(sample(task).model_dump_json(), parse_float=lambda text: text)

    def check(value: object) -> None:
        for part in value.values() if isinstance(value, dict) else value:  # type: ignore[attr-defined]
            if isinstance(part, dict | list):
                check(part)
            elif isinstance(part, str) and part[:1] in "-0123456789" and "." in part:
                digits = part.lower().split("e")[0].lstrip("-0.").replace(".", "")
                assert len(digits) <= 6 or not part.replace(".", "").isdigit(), part

    check(numbers)
