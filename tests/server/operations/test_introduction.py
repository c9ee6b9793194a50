"""Who Flower is made to know, and who is shut out."""

import os
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from common.messages.admission import read_admission
from server.operations.admitted import admit, read_admitted, retire
from server.operations.flower_control import FlowerControl, control_of
from server.operations.home import CoordinatorHome
from server.operations.introduction import introduce_sites
from tests.server.operations.control_api import ControlApi, control_api
from tests.server.operations.coordinators import admission_file

SITES = {"north": "chestx", "valley": "retina", "coast": "pathoscan"}
NOW = datetime(2026, 5, 4, tzinfo=UTC)


def admit_site(home: CoordinatorHome, folder: Path, site: str, control: FlowerControl) -> None:
    admission = read_admission(admission_file(folder, site, SITES[site]))
    admit(home, admission, control, NOW)


def names(api: ControlApi) -> set[str]:
    return {node.name for node in api.nodes}


def test_site_that_is_admitted_meanwhile_is_no_stranger(
    home: CoordinatorHome, tmp_path: Path
) -> None:
    with control_api(home) as api, control_of(home) as control, control_of(home) as another:

        def admit_meanwhile() -> None:
            api.before_listing_nodes = lambda: None
            admit_site(home, tmp_path, "north", another)

        api.before_listing_nodes = admit_meanwhile
        introduce_sites(home, control)

        assert names(api) == {"north"}
        assert "unregister-node" not in api.asked  # Flower would never take its key again


def test_where_nothing_differs_nodes_are_listed_once_and_nothing_is_written(
    home: CoordinatorHome, tmp_path: Path
) -> None:
    with control_api(home) as api, control_of(home) as control:
        for site in SITES:
            admit_site(home, tmp_path, site, control)
        retire(home, "coast", control=control, now=NOW)
        files = {path: os.stat(path).st_ino for path in home.admitted.glob("*.json")}
        api.asked.clear()

        introduce_sites(home, control)

        assert api.asked == ["list-nodes"]
        assert {path: os.stat(path).st_ino for path in files} == files


def test_sites_that_flower_lost_are_registered_and_strangers_are_shut_out(
    home: CoordinatorHome, tmp_path: Path
) -> None:
    with control_api(home) as api, control_of(home) as control:
        for site in ("north", "valley"):
            admit_site(home, tmp_path, site, control)
        retire(home, "north", control=control, now=NOW)
        (valley,) = api.nodes
        api.nodes = []  # the database was lost
        stranger = ec.generate_private_key(ec.SECP384R1()).public_key()
        api.register(stranger.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "x")

        introduce_sites(home, control)

        assert [(node.name, node.public_key) for node in api.nodes] == [
            ("valley", valley.public_key)
        ]
        assert read_admitted(home)["valley"].node_id == api.nodes[0].node_id != valley.node_id
