import pytest

from common.errors import ModelError
from common.model.layers import group_of, held_by, shared, unmatched_prefixes

NAMES = ["trunk.norm.weight", "trunk.conv.weight", "heads.chestx.bias", "heads.retina.bias"]


def test_a_site_holds_the_trunk_and_its_own_head() -> None:
    assert held_by("retina", NAMES) == [
        "trunk.norm.weight", "trunk.conv.weight", "heads.retina.bias",
    ]  # fmt: skip


def test_local_layers_do_not_leave() -> None:
    assert shared(NAMES, ("trunk.norm", "heads.chestx")) == [
        "trunk.conv.weight", "heads.retina.bias",
    ]  # fmt: skip


def test_a_misspelt_local_layer_is_found() -> None:
    assert unmatched_prefixes(NAMES, ("trunk.norm", "trunk.nrom")) == ["trunk.nrom"]


def test_an_array_outside_trunk_and_heads_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"'decoder\.weight' is neither"):
        group_of("decoder.weight")
