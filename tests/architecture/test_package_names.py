"""server, client and common are plain names: another distribution must not own them too."""

from importlib.metadata import packages_distributions

import pytest


@pytest.mark.parametrize("package", ["server", "client", "common"])
def test_package_name_has_one_owner(package: str) -> None:
    owners = set(packages_distributions().get(package, ["fovea"]))
    assert owners == {"fovea"}
