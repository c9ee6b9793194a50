"""A coordinator, sites that connect to it, and a run."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from flwr.superlink.grid.http_grid import HttpGrid

from common.messages.bundle import build_bundle
from common.messages.wire import encode
from tests.client.network.connected_site import CARD, Cable, Site, a_site
from tests.client.network.superlink import Coordinator, free_port, write_certificates


@pytest.fixture(scope="module")
def short_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="fovea-", dir="/tmp"))  # sockets need short paths
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def coordinator(short_folder: Path) -> Iterator[Coordinator]:
    folder = short_folder / "coordinator"
    folder.mkdir()
    write_certificates(folder, days=20)
    made = Coordinator(free_port(), folder)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def site(coordinator: Coordinator) -> Iterator[Site]:
    """A site of one test, not connected."""
    with a_site(coordinator) as made:
        yield made
        assert "Traceback" not in made.log()


@pytest.fixture
def connected(site: Site) -> Site:
    """A site of one test, connected."""
    site.connect()
    return site


@pytest.fixture
def cable(coordinator: Coordinator, site: Site) -> Iterator[Cable]:
    """The line of a connected site."""
    made = Cable(coordinator.port)
    settings = yaml.safe_load(site.home.connector_file.read_text())
    settings["coordinator"] = f"127.0.0.1:{made.port}"
    site.home.connector_file.write_text(yaml.safe_dump(settings))
    site.connect()
    yield made
    site.kill()
    made.close()


@pytest.fixture(scope="module")
def lasting(coordinator: Coordinator) -> Iterator[Site]:
    with a_site(coordinator) as made:
        made.connect()
        yield made
        assert "Traceback" not in made.log()


@pytest.fixture
def north(lasting: Site) -> Site:
    """A connected site that tests share and leave as it is."""
    lasting.desk.asked.clear()
    lasting.desk.reply = lambda _content: encode(CARD)
    return lasting


@pytest.fixture(scope="module")
def run(coordinator: Coordinator) -> HttpGrid:
    """A run with the one bundle that sites accept."""
    return coordinator.launch(build_bundle())
