"""What is said of an unforeseen error names its kind and place, and nothing else."""

import pytest

from common.errors import DataError
from common.explaining.breakdown import breakdown, said
from common.metrics.geometry import area_means
from common.registry import Registry


def test_a_librarys_words_are_left_out_and_the_last_place_in_our_code_is_named() -> None:
    with pytest.raises(AttributeError) as raised:
        area_means("Smith^John", 2, 2)  # type: ignore[arg-type]

    said = breakdown(raised.value)

    assert said.startswith("AttributeError in common.metrics.geometry, line ")
    assert "Smith" not in said
    assert "shape" not in said


def test_the_place_is_ours_where_the_error_rose_deep_in_a_library() -> None:
    table: Registry[object] = Registry("thing", {"one": "no_such_module:thing"})
    with pytest.raises(ModuleNotFoundError) as raised:
        table.get("one")

    assert breakdown(raised.value).startswith("ModuleNotFoundError in common.registry, line ")


def test_an_error_from_elsewhere_is_named_by_its_kind_alone() -> None:
    assert breakdown(ValueError("Smith^John")) == "ValueError"
    assert breakdown(DataError("Smith^John")) == "DataError"


def test_a_quoted_header_field_is_left_out_of_our_own_message() -> None:
    cause = ValueError("invalid literal for int() with base 10: 'Smith^John'")
    error = DataError(f"a.dcm: cannot be decoded ({cause}); export it again.")
    error.__cause__ = cause

    assert said(error) == "a.dcm: cannot be decoded (ValueError); export it again."


def test_what_the_system_says_of_a_file_and_our_own_words_stay() -> None:
    ours = DataError("a.png: of another size; save it anew.")
    truncated = DataError("a.png: image file is truncated.")
    truncated.__cause__ = OSError("image file is truncated")

    assert said(ours) == "a.png: of another size; save it anew."
    assert said(truncated) == "a.png: image file is truncated."
