"""The connector against a real SuperLink on loopback: TLS, node authentication, real bundles.

The test itself plays the coordinator's app, through Flower's own interfaces for it; the trainer
is a real gRPC service whose desk gives the answer that a test wants.
"""

import hashlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from ipaddress import IPv4Address
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
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

from client.door.desk_report import DeskReport
from client.door.service import Server, serve
from client.home.folders import SiteHome
from client.home.node_key import make_node_key
from client.home.site import LimitSettings
from client.network.trainer_line import TrainerLine
from client.standing.connector_report import ConnectorReport, read_report
from common.bundle import build_bundle
from common.errors import SiteError
from common.record_bytes import from_bytes, to_bytes
from common.wire import (
    QueryRequest,
    Refusal,
    RefusalCode,
    SiteCard,
    TrainRequest,
    Update,
    decode_answer,
    decode_request,
    encode,
)

OFFLINE = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
START_CONNECTOR = (
    "import logging, sys; from pathlib import Path; "
    "from client.network.connector import run_connector; "
    "from client.home.folders import SiteHome; from common.log import configure; "
    "configure(level=logging.INFO, as_json=False, stream=sys.stderr); "
    "run_connector(SiteHome(Path(sys.argv[1])))"
)
LIMITS = LimitSettings(request_mb=500, request_s=3600, min_free_disk_mb=0)
CARD = SiteCard(site="north", task="chestx", num_examples=3, num_val=1, data_card_json="{}")


# --- the coordinator ---------------------------------------------------------------------------


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


# --- the site ----------------------------------------------------------------------------------


class StandInDesk:
    """Answers as a test wants, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[RecordDict] = []
        self.reply: Callable[[RecordDict], RecordDict] = lambda _content: encode(CARD)

    def answer(self, content: bytes, *, is_wanted: Callable[[], bool]) -> bytes | None:
        del is_wanted
        request = from_bytes(content)
        self.asked.append(request)
        return to_bytes(self.reply(request))

    def turned_away(self, reason: str) -> None:
        del reason

    def reasons_against(self) -> tuple[str, ...]:
        return ()

    def report(self) -> DeskReport:
        return DeskReport(
            site="north",
            task="chestx",
            able=True,
            reasons=(),
            is_paused=False,
            last_round={},
            waiting=(),
            busy_since=None,
        )


@dataclass
class Site:
    """A connector's process and the folder that it works in."""

    home: SiteHome
    node_id: int
    desk: StandInDesk
    server: Server | None = None
    process: subprocess.Popen[bytes] | None = None

    def serve(self) -> None:
        self.server = serve(self.desk, self.home.socket, LIMITS)

    def connect(self) -> None:
        self.start()
        wait_until(self.is_connected, seconds=30, what="the connection")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def start(self) -> None:
        command = [sys.executable, "-c", START_CONNECTOR, str(self.home.root)]
        with self.home.connector_log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def report(self) -> ConnectorReport | None:
        return read_report(self.home.connector_status)

    def is_connected(self) -> bool:
        report = self.report()
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        return report is not None and report.pid == self.process.pid and report.state == "connected"

    def log(self) -> str:
        return self.home.connector_log.read_text()

    def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=30)


class Cable:
    """A line between site and coordinator that can be cut."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._is_cut = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def cut(self) -> None:
        self._is_cut.set()

    def mend(self) -> None:
        self._is_cut.clear()

    def close(self) -> None:
        self.cut()
        with self._listener:
            self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._carry, args=(near,)))
                self._threads[-1].start()

    def _carry(self, near: socket.socket) -> None:
        with (
            near,
            suppress(OSError),
            socket.create_connection(("127.0.0.1", self._target)) as far,
        ):
            while not self._is_cut.is_set():
                for end in select.select([near, far], [], [], 0.05)[0]:
                    content = end.recv(65536)
                    if not content:
                        return
                    (far if end is near else near).sendall(content)


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


def make_home(root: Path, coordinator: Coordinator) -> SiteHome:
    home = SiteHome(root)
    for folder in (home.connector, home.run, home.trainer):
        folder.mkdir(mode=0o700)
    settings = {
        "site": "north",
        "federation": "trial",
        "coordinator": coordinator.address,
        "metrics_port": 0,
        "poll_s": 3.0,
        "certificate_warning_days": 30,
    }
    home.connector_file.write_text(yaml.safe_dump(settings))
    home.certificate_authority.write_bytes(coordinator.authority)
    return home


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


@contextmanager
def a_site(coordinator: Coordinator) -> Iterator[Site]:
    """A site that is admitted and whose trainer serves; nothing is connected yet."""
    root = Path(tempfile.mkdtemp(prefix="fovea-", dir="/tmp"))
    home = make_home(root, coordinator)
    key = make_node_key(home.node_key)
    site = Site(home, coordinator.register(key, root.name), StandInDesk())
    site.serve()
    yield site
    site.kill()
    if site.server is not None:
        site.server.stop(grace_s=0)
    shutil.rmtree(root)


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


# --- what must hold ----------------------------------------------------------------------------


def test_request_reaches_the_trainer_and_its_answer_the_coordinator(
    run: HttpGrid, north: Site
) -> None:
    message = answer(run, ask(run, north.node_id, encode(QueryRequest(run="r"))))

    card = decode_answer(message.content, SiteCard)
    assert isinstance(card, SiteCard)
    assert (card.site, card.num_examples) == ("north", 3)
    assert message.metadata.src_node_id == north.node_id
    assert [decode_request(asked, QueryRequest).run for asked in north.desk.asked] == ["r"]


def test_arrays_of_many_chunks_arrive_bit_for_bit_both_ways(run: HttpGrid, north: Site) -> None:
    arrays = {"trunk.weight": np.random.default_rng(0).random((3, 2**20), dtype=np.float32)}
    north.desk.reply = lambda content: encode(
        Update(
            run="r",
            server_round=1,
            site="north",
            task="chestx",
            num_examples=3,
            num_steps=1,
            metrics={},
            evaluation={},
            arrays={"trunk.weight": -decode_request(content, TrainRequest).arrays["trunk.weight"]},
        )
    )

    request = TrainRequest(
        run="r",
        server_round=1,
        global_step=0,
        total_steps=1,
        proximal_mu=0,
        evaluates=False,
        config_json="{}",
        arrays=arrays,
    )
    message_id = ask(run, north.node_id, encode(request), MessageType.TRAIN)
    update = decode_answer(answer(run, message_id).content, Update)

    assert isinstance(update, Update)
    np.testing.assert_array_equal(update.arrays["trunk.weight"], -arrays["trunk.weight"])
    wait_until(lambda: reported(north).rounds == 1, seconds=5, what="the report")
    assert reported(north).bytes_in > 12 * 2**20


def test_run_that_brings_code_is_refused_and_its_code_is_never_imported(
    coordinator: Coordinator, north: Site, tmp_path: Path
) -> None:
    marker = tmp_path / "code-was-run"
    hostile = coordinator.launch(hostile_bundle(marker))

    message = answer(hostile, ask(hostile, north.node_id, encode(QueryRequest(run="r"))))

    refusal = decode_answer(message.content, SiteCard)
    assert isinstance(refusal, Refusal)
    assert (refusal.site, refusal.code) == ("north", RefusalCode.UNTRUSTED)
    assert "evil.py" in refusal.reason
    assert north.desk.asked == []
    assert not marker.exists()
    assert reported(north).refused_bundles == 1


def test_killed_connector_finishes_the_message_that_it_had_in_work(
    run: HttpGrid, connected: Site
) -> None:
    never = threading.Event()
    connected.desk.reply = lambda _content: (never.wait(60), encode(CARD))[1]
    message_id = ask(run, connected.node_id, encode(QueryRequest(run="r")))
    wait_until(lambda: bool(connected.desk.asked), seconds=10, what="the request")
    connected.end(signal.SIGKILL)
    connected.desk.reply = lambda _content: encode(CARD)

    connected.start()
    card = decode_answer(answer(run, message_id, seconds=20).content, SiteCard)
    never.set()

    assert isinstance(card, SiteCard)
    assert len(connected.desk.asked) == 2


def test_sigterm_takes_the_site_offline_in_order(coordinator: Coordinator, connected: Site) -> None:
    assert connected.end(signal.SIGTERM) == 0

    assert reported(connected).state == "stopped"
    connected.start()  # Flower refuses this for a minute when the node did not say goodbye
    wait_until(connected.is_connected, seconds=15, what="the second connection")
    assert "still counts as open" not in connected.log()


def test_sigterm_does_not_wait_for_a_trainer_that_works(run: HttpGrid, connected: Site) -> None:
    never = threading.Event()
    connected.desk.reply = lambda _content: (never.wait(60), encode(CARD))[1]
    ask(run, connected.node_id, encode(QueryRequest(run="r")))
    wait_until(lambda: bool(connected.desk.asked), seconds=10, what="the request")

    started = time.monotonic()
    code = connected.end(signal.SIGTERM)
    never.set()

    assert code == 0
    assert time.monotonic() - started < 10


def test_site_that_was_not_admitted_waits_and_says_so(coordinator: Coordinator, site: Site) -> None:
    coordinator.unregister(site.node_id)
    site.start()

    wait_until(lambda: refused_with(site, "not admitted"), seconds=20, what="the refusal")

    assert site.process is not None
    assert site.process.poll() is None


def test_site_that_is_retired_while_connected_goes_offline_and_says_so(
    coordinator: Coordinator, connected: Site
) -> None:
    coordinator.unregister(connected.node_id)

    wait_until(lambda: refused_with(connected, "retired"), seconds=20, what="the refusal")

    assert reported(connected).connected_since is None


def test_certificates_that_end_soon_are_warned_of(north: Site) -> None:
    report = reported(north)

    assert report.certificate_expires is not None
    assert report.authority_expires is not None
    assert north.log().count("expires in 19 days") == 2


def test_server_of_another_authority_is_not_believed(
    coordinator: Coordinator, site: Site, tmp_path: Path
) -> None:
    write_certificates(tmp_path, days=1)
    site.home.certificate_authority.write_bytes((tmp_path / "ca.crt").read_bytes())
    site.start()

    wait_until(lambda: refused_with(site, "certificate is not trusted"), seconds=20, what="it")


def test_second_connector_of_a_site_does_not_start(north: Site) -> None:
    second = subprocess.run(
        [sys.executable, "-c", START_CONNECTOR, str(north.home.root)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert second.returncode == 1
    assert "another connector of this site runs" in second.stderr


def test_connector_never_imports_torch(north: Site) -> None:
    assert north.process is not None
    mapped = {Path(part.path).name for part in psutil.Process(north.process.pid).memory_maps()}
    assert not any("torch" in name for name in mapped)
    assert any("grpc" in name or "cygrpc" in name for name in mapped)


def test_trainer_that_is_away_is_waited_for_before_it_is_given_up(tmp_path: Path) -> None:
    line = TrainerLine(tmp_path / "nobody.sock", threading.Event(), patience_s=1.0)
    started = time.monotonic()

    with pytest.raises(SiteError, match="not running"):
        line.ask(b"", expires_at=time.time() + 60)

    assert 1.0 <= time.monotonic() - started < 10


def test_request_during_which_the_trainer_died_is_asked_again_when_it_is_back(
    run: HttpGrid, connected: Site
) -> None:
    never = threading.Event()
    connected.desk.reply = lambda _content: (never.wait(60), encode(CARD))[1]
    message_id = ask(run, connected.node_id, encode(QueryRequest(run="r")))
    wait_until(lambda: bool(connected.desk.asked), seconds=10, what="the request")

    assert connected.server is not None
    connected.server.stop(grace_s=0)
    connected.desk.reply = lambda _content: encode(CARD)
    connected.serve()
    card = decode_answer(answer(run, message_id).content, SiteCard)
    never.set()

    assert isinstance(card, SiteCard)
    assert len(connected.desk.asked) == 2


@pytest.mark.deployment
def test_site_whose_trainer_stays_away_refuses_and_stays_connected(
    run: HttpGrid, connected: Site
) -> None:
    assert connected.server is not None
    connected.server.stop(grace_s=0)

    message_id = ask(run, connected.node_id, encode(QueryRequest(run="r")))
    refusal = decode_answer(answer(run, message_id, seconds=90).content, SiteCard)

    assert isinstance(refusal, Refusal)
    assert refusal.code == RefusalCode.UNAVAILABLE
    assert connected.is_connected()


@pytest.mark.deployment
def test_answer_that_was_ready_while_the_line_was_cut_for_seconds_is_sent_late(
    run: HttpGrid, site: Site, cable: Cable
) -> None:
    site.desk.reply = lambda _content: (cable.cut(), encode(CARD))[1]
    message_id = ask(run, site.node_id, encode(QueryRequest(run="r")))
    wait_until(lambda: bool(site.desk.asked), seconds=10, what="the request")
    time.sleep(15)

    cable.mend()
    card = decode_answer(answer(run, message_id, seconds=40).content, SiteCard)

    assert isinstance(card, SiteCard)
    assert len(site.desk.asked) == 1


@pytest.mark.deployment
def test_line_that_is_cut_for_minutes_is_taken_up_again_by_the_same_process(
    run: HttpGrid, site: Site, cable: Cable
) -> None:
    site.desk.reply = lambda _content: (cable.cut(), encode(CARD))[1]
    message_id = ask(run, site.node_id, encode(QueryRequest(run="r")))
    lost = answer(run, message_id, seconds=90)
    assert lost.has_error()  # a minute without a heartbeat: the coordinator is told
    assert "cannot be reached" in (reported(site).trouble or "")
    time.sleep(20)

    cable.mend()
    wait_until(lambda: reported(site).trouble is None, seconds=40, what="the line")
    site.desk.reply = lambda _content: encode(CARD)
    again = ask(run, site.node_id, encode(QueryRequest(run="r")))
    card = decode_answer(answer(run, again).content, SiteCard)

    assert isinstance(card, SiteCard)
    assert site.is_connected()  # the process that was started first


@pytest.mark.deployment
def test_heartbeats_go_on_while_the_trainer_works_for_longer_than_a_minute(
    run: HttpGrid, connected: Site
) -> None:
    connected.desk.reply = lambda _content: (time.sleep(100), encode(CARD))[1]

    message_id = ask(run, connected.node_id, encode(QueryRequest(run="r")))
    message = answer(run, message_id, seconds=120)

    assert not message.has_error()


@pytest.mark.deployment
def test_coordinator_that_is_killed_and_started_again_is_found_again(
    coordinator: Coordinator, north: Site
) -> None:
    assert coordinator.process is not None
    coordinator.process.kill()
    coordinator.process.wait()
    wait_until(lambda: reported(north).trouble is not None, seconds=10, what="the trouble")

    coordinator.start()
    wait_until(lambda: reported(north).trouble is None, seconds=40, what="the line")
    run = coordinator.launch(build_bundle())
    message_id = ask(run, north.node_id, encode(QueryRequest(run="r")))
    card = decode_answer(answer(run, message_id).content, SiteCard)

    assert isinstance(card, SiteCard)
    assert north.is_connected()


def reported(site: Site) -> ConnectorReport:
    report = site.report()
    assert report is not None
    return report


def refused_with(site: Site, words: str) -> bool:
    report = site.report()
    return (
        report is not None
        and report.state == "waiting"
        and report.trouble is not None
        and words in report.trouble
    )
