"""server, client and common are plain names: another distribution must not own them too."""

from collections.abc import Mapping
from importlib.metadata import packages_distributions

import pytest


@pytest.fixture(scope="module")
def owners() -> Mapping[str, list[str]]:
    """Distributions by the package that they bring; it takes a second to read them all."""
    return packages_distributions()


@pytest.mark.parametrize("package", ["server", "client", "common"])
def test_package_name_has_one_owner(owners: Mapping[str, list[str]], package: str) -> None:
    assert set(owners.get(package, ["fovea"])) == {"fovea"}
