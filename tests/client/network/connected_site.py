"""A site's connector as a process, before a trainer that answers as a test wants."""

import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import yaml
from flwr.app import RecordDict

from client.door.desk_report import DeskReport
from client.door.service import Server, serve
from client.home.folders import SiteHome
from client.home.node_key import make_node_key
from client.home.site import LimitSettings
from client.standing.connector_report import ConnectorReport, read_report
from common.messages.kinds import SiteCard
from common.messages.record_bytes import from_bytes, to_bytes
from common.messages.wire import encode
from tests.client.network.superlink import Coordinator, wait_until

START_CONNECTOR = (
    "import logging, sys; from pathlib import Path; "
    "from client.network.connector import run_connector; "
    "from client.home.folders import SiteHome; from common.machine.log import configure; "
    "configure(level=logging.INFO, as_json=False, stream=sys.stderr); "
    "run_connector(SiteHome(Path(sys.argv[1])))"
)
LIMITS = LimitSettings(request_mb=500, request_s=3600, min_free_disk_mb=0)
CARD = SiteCard(site="north", task="chestx", num_examples=3, num_val=1, data_card_json="{}")


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
