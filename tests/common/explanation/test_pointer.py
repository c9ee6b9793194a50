"""Pointers name values as RFC 6901 says."""

import pytest
from pydantic import JsonValue

from common.errors import DataError
from common.explanation.pointer import pointer, resolve

# The document and the answers of RFC 6901, section 5.
DOCUMENT: JsonValue = {"foo": ["bar", "baz"], "": 0, "a/b": 1, "m~n": 8, " ": 7, "e": {"0": 2}}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("", DOCUMENT),
        ("/foo/0", "bar"),
        ("/", 0),
        ("/a~1b", 1),
        ("/m~0n", 8),
        ("/ ", 7),
        ("/e/0", 2),
    ],
)
def test_values_are_found(path: str, value: JsonValue) -> None:
    assert resolve(DOCUMENT, path) == value


def test_a_pointer_leads_to_the_parts_it_was_made_from() -> None:
    assert pointer("a/b") == "/a~1b"
    assert resolve(DOCUMENT, pointer("foo", 1)) == "baz"
    assert resolve({"~1": {"/": 3}}, pointer("~1", "/")) == 3


@pytest.mark.parametrize(
    "path", ["/foo/2", "/foo/-1", "/foo/01", "/foo/x", "/none", "foo", "/foo/0/0"]
)
def test_a_pointer_to_nothing_is_an_error_that_names_it(path: str) -> None:
    with pytest.raises(DataError, match=r"foo|none"):
        resolve(DOCUMENT, path)
