"""A real SuperLink on loopback and, in a test's hands, the app that it would start."""

import hashlib
import os
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID
from flwr.app import Message, MessageType, RecordDict
from flwr.common.serde import run_from_proto
from flwr.proto.control_pb2 import RegisterNodeRequest, StartRunRequest, UnregisterNodeRequest
from flwr.proto.fab_pb2 import Fab
from flwr.proto.runtime_pb2 import AcquireTaskRequest, PullTaskInputRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid

OFFLINE = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}


@dataclass
class Coordinator:
    """A SuperLink of this test, and the app that it would start."""

    port: int
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    grids: list[tuple[HttpGrid, HeartbeatSender]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def authority(self) -> bytes:
        return (self.folder / "ca.crt").read_bytes()

    def start(self) -> None:
        command = [Path(sys.executable).parent / "flower-superlink"]
        command += ["--ssl-certfile", self.folder / "server.pem"]
        command += ["--ssl-keyfile", self.folder / "server.key"]
        command += ["--ssl-ca-certfile", self.folder / "ca.crt", "--enable-supernode-auth"]
        command += ["--disable-runtime-dependency-installation", "--isolation", "process"]
        command += ["--database", self.folder / "state.db"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        with (self.folder / "superlink.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=os.environ | OFFLINE, stdout=log, stderr=subprocess.STDOUT
            )
        wait_until(self._listens, seconds=60, what="the SuperLink")

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        for grid, heartbeat in self.grids:
            heartbeat.stop()
            grid.close()
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def control(self) -> ControlHttpClient:
        return ControlHttpClient.from_server_address(self.address, False, self.authority, [])

    def register(self, key: ec.EllipticCurvePrivateKey, name: str) -> int:
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        with self.control() as control:
            request = RegisterNodeRequest(public_key=public, name=name)
            return int(control.RegisterNode(request).node_id)

    def unregister(self, node_id: int) -> None:
        with self.control() as control:
            control.UnregisterNode(UnregisterNodeRequest(node_id=node_id))

    def launch(self, bundle: bytes) -> HttpGrid:
        """Start a run and take the part of its app."""
        with self.control() as control:
            fab = Fab(hash_str=hashlib.sha256(bundle).hexdigest(), content=bundle)
            run_id = control.StartRun(StartRunRequest(fab=fab)).run_id
        assert run_id
        with RuntimeHttpClient.from_server_address(
            self.address, False, self.authority, []
        ) as runtime:
            wanted = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
            token = runtime.AcquireTask(wanted).token
        grid = HttpGrid(self.address, root_certificates=self.authority, token=token)
        started = grid._runtime_client.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id = started.task_id
        TaskIdentity.node_id = started.context.node_id
        grid.set_run(run_from_proto(started.run))
        heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(grid._runtime_client))
        heartbeat.start()
        self.grids.append((grid, heartbeat))
        return grid


def ask(grid: HttpGrid, node_id: int, content: RecordDict, kind: str = MessageType.QUERY) -> str:
    TaskIdentity.run_id = grid.run.run_id  # Flower expects one run per process
    (message_id,) = grid.push_messages([Message(content, node_id, kind)])
    return message_id


def answer(grid: HttpGrid, message_id: str, *, seconds: float = 30) -> Message:
    came: list[Message] = []

    def look() -> bool:
        came.extend(grid.pull_messages([message_id]))
        return bool(came)

    wait_until(look, seconds=seconds, what="an answer", every_s=0.02)
    return came[0]


def write_certificates(folder: Path, *, days: int) -> None:
    now = datetime.now(UTC)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])

    def certificate(
        name: x509.Name, key: ec.EllipticCurvePrivateKey, *, is_authority: bool
    ) -> x509.Certificate:
        authority_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(
            authority_key.public_key()
        )
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(authority_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]),
                critical=False,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(authority_id, critical=False)
            .sign(authority_key, hashes.SHA256())
        )

    server_key = ec.generate_private_key(ec.SECP256R1())
    server_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    authority = certificate(authority_name, authority_key, is_authority=True)
    server = certificate(server_name, server_key, is_authority=False)
    (folder / "ca.crt").write_bytes(authority.public_bytes(Encoding.PEM))
    (folder / "server.pem").write_bytes(server.public_bytes(Encoding.PEM))
    (folder / "server.key").write_bytes(
        server_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )


def hostile_bundle(marker: Path) -> bytes:
    """A bundle that Flower accepts and that brings code of its own."""
    code = f"from pathlib import Path\nPath({str(marker)!r}).touch()\napp = None\n".encode()
    settings = b"""\
[project]
name = "fovea"
version = "0.1.0"
[tool.flwr.app]
publisher = "fovea"
[tool.flwr.app.components]
serverapp = "evil:app"
clientapp = "evil:app"
"""
    files = {"pyproject.toml": settings, "evil.py": code}
    listed = [f"{n},{hashlib.sha256(c).hexdigest()},{len(c) * 8}" for n, c in files.items()]
    files[".info/CONTENT"] = "\n".join(listed).encode()
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def wait_until(
    is_so: Callable[[], bool], *, seconds: float, what: str, every_s: float = 0.05
) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, f"{what} did not come within {seconds} s"
        time.sleep(every_s)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
