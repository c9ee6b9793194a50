"""A provisioned federation, and one whose SuperLink runs: real files, sockets and processes."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from common.messages.admission import Admission, write_admission
from common.messages.signing import PrivateKey
from server.operations.federation_file import read_federation
from server.operations.home import CoordinatorHome
from server.operations.provision import provision

REPOSITORY = Path(__file__).parents[3]
CONFIGS = REPOSITORY / "configs"
PHANTOM = """{kind: phantom, patients: 6, pictures_per_patient: 1, scanner_strength: 0.5,
          lesion_contrast: 1.5, roi_fraction: 0.5, marker_agreement: null, prevalence: null}"""
RUN = f"""
extends: [{CONFIGS}/default.yaml, {CONFIGS}/models/tiny.yaml]
name: small
tasks: {{chestx: {{labels: [Mass, Nodule]}}, retina: null, pathoscan: null}}
data: {{image_size_px: 64}}
model: {{image_size_px: 64, context_labels: {{chestx: []}}}}
sites: [{{name: north, task: chestx, source: {PHANTOM}}}]
reference: {{chestx: {{source: {PHANTOM}}}, retina: null, pathoscan: null}}
federation: {{rounds: 2, wait_for_sites_s: 1, min_sites: 1}}
"""


def free_port() -> int:
    """A port that is free, and the next too: the SuperLink's health address."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            try:
                other.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


def provisioned(root: Path) -> CoordinatorHome:
    text = (CONFIGS / "federations" / "example.yaml").read_text()
    text = text.replace("superlink_port: 9443", f"superlink_port: {free_port()}")
    file = root / "federation.yaml"
    file.write_text(text.replace("../", f"{CONFIGS}/"))
    home = CoordinatorHome(root / "home")
    provision(read_federation(file), home, now=datetime.now(UTC))
    return home


def admission_file(folder: Path, site: str, task: str) -> Path:
    node_key = ec.generate_private_key(ec.SECP384R1()).public_key()
    line = node_key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    path = folder / f"{site}.json"
    write_admission(
        path,
        Admission(
            version=1,
            federation="example",
            site=site,
            task=task,
            node_key=line,
            signing_key=PrivateKey.new().public.text,
        ),
    )
    return path


class Registry:
    """A list of nodes where no SuperLink is needed."""

    def register(self, public_key: bytes, name: str) -> int:
        del public_key, name
        return 7

    def unregister(self, node_id: int) -> None:
        del node_id


@dataclass
class Served:
    """A coordinator whose `fovea serve` runs."""

    home: CoordinatorHome
    process: subprocess.Popen[str]
    errors: IO[str]

    def logged(self) -> str:
        """Everything that it has logged."""
        self.errors.seek(0)
        return self.errors.read()

    @property
    def superlink(self) -> int:
        return int((self.home.superlink / "superlink.pid").read_text())


@contextmanager
def serving(home: CoordinatorHome) -> Iterator[Served]:
    """Run `fovea serve` until the block ends; it has said that it listens when the block begins."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "server.cli", "serve", "--home", str(home.root)],
            cwd=REPOSITORY,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        assert process.stdout is not None
        try:
            said = process.stdout.readline()
            errors.seek(0)
            assert "listens on 127.0.0.1" in said, errors.read()
            yield Served(home, process, errors)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            process.stdout.close()


def wait_until(is_true: object, *, timeout_s: float = 30.0) -> None:
    """Wait until a function says true; fail when it does not."""
    assert callable(is_true)
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
