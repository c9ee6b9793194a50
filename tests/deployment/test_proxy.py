"""nginx with the very file of deploy/: hospitals reach the fleet paths, and nothing else."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from harness.nginx import Nginx
from server.operations.authority import Identity, new_authority, new_server

pytestmark = pytest.mark.deployment

MB = 2**20


@dataclass
class SuperLink:
    """What stands behind the proxy: answers every path, the dangerous ones too."""

    port: int
    seen: list[tuple[str, str, int]] = field(default_factory=list)  # method, path, bytes


@dataclass(frozen=True)
class Proxy:
    """nginx in front of it, as a hospital sees it."""

    port: int
    authority: Path

    def ask(self, path: str, *, method: str = "POST", body: bytes = b"") -> tuple[int, bytes]:
        """Send one request, its path exactly as given, and return status and body."""
        context = ssl.create_default_context(cafile=str(self.authority))
        connection = HTTPSConnection("localhost", self.port, timeout=20, context=context)
        try:
            connection.request(method, path, body=body)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def authority() -> Identity:
    return new_authority("trial", days=30, now=datetime.now(UTC))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, authority: Identity) -> Path:
    folder = tmp_path_factory.mktemp("proxy")
    write_identity(folder / "server", server_of(authority))
    (folder / "ca.crt").write_bytes(authority.certificate_pem)
    return folder


@pytest.fixture(scope="module")
def superlink(folder: Path) -> Iterator[SuperLink]:
    with superlink_with(folder / "server") as running:
        yield running


@pytest.fixture(scope="module")
def proxy(folder: Path, superlink: SuperLink) -> Iterator[Proxy]:
    with proxy_before(superlink, folder) as running:
        yield running


def server_of(authority: Identity) -> Identity:
    return new_server(authority, ["localhost", "127.0.0.1"], days=7, now=datetime.now(UTC))


def write_identity(stem: Path, identity: Identity) -> None:
    stem.with_suffix(".crt").write_bytes(identity.certificate_pem)
    stem.with_suffix(".key").write_bytes(identity.key_pem)


@contextmanager
def superlink_with(stem: Path) -> Iterator[SuperLink]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            received = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            running.seen.append((self.command, self.path, len(received)))
            answer = f"{self.path} {len(received)}".encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, *arguments: object) -> None:
            del arguments

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(stem.with_suffix(".crt"), stem.with_suffix(".key"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    running = SuperLink(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield running
    server.shutdown()
    server.server_close()
    thread.join()


@contextmanager
def proxy_before(superlink: SuperLink, folder: Path) -> Iterator[Proxy]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    running = Nginx(
        port=port, superlink_port=superlink.port, tls=folder, authority=folder, folder=folder
    )
    try:
        running.start()
        yield Proxy(port, folder / "ca.crt")
    finally:
        running.stop()


def test_a_fleet_path_passes_with_its_body(proxy: Proxy, superlink: SuperLink) -> None:
    answer = proxy.ask("/v1/fleet/pull-messages", body=b"x" * 1000)

    assert answer == (200, b"/v1/fleet/pull-messages 1000")
    assert superlink.seen[-1] == ("POST", "/v1/fleet/pull-messages", 1000)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/docs",
        "/openapi.json",
        "/v1/control/x",
        "/v1/runtime/x",
        "/v1/fleet",
        "/v1/fleetx/y",
        "//v1/control/x",
        "/v1/fleet/../control/x",
        "/v1/fleet/%2e%2e/control/x",
        "/v1/fleet/..%2fcontrol/x",
        "/v1/fleet/%252e%252e/control/x",
        "/v1/control/../fleet/x",
        "/v1/fleet/x?y=/v1/control",
        "/v1/fleet/x;/../../control",
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_any_other_path_ends_at_the_proxy(
    proxy: Proxy, superlink: SuperLink, path: str, method: str
) -> None:
    before = len(superlink.seen)

    status, _ = proxy.ask(path, method=method)

    assert status == 404
    assert len(superlink.seen) == before


def test_a_fleet_path_is_for_posts_only(proxy: Proxy, superlink: SuperLink) -> None:
    before = len(superlink.seen)

    status, _ = proxy.ask("/v1/fleet/pull-messages", method="GET")

    assert status == 404
    assert len(superlink.seen) == before


def test_a_piece_of_a_model_passes_and_a_flood_does_not(proxy: Proxy, superlink: SuperLink) -> None:
    status, _ = proxy.ask("/v1/fleet/push-object", body=bytes(6 * MB))
    assert status == 200
    assert superlink.seen[-1][2] == 6 * MB
    before = len(superlink.seen)

    try:
        status, _ = proxy.ask("/v1/fleet/push-object", body=bytes(40 * MB))
    except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
        status = 413  # closed before all was sent

    assert status == 413
    assert len(superlink.seen) == before


def test_a_site_that_fetches_a_model_is_not_slowed_down(proxy: Proxy) -> None:
    statuses = [proxy.ask("/v1/fleet/pull-object")[0] for _ in range(200)]

    assert statuses == [200] * 200


def test_a_stranger_behind_the_proxy_is_not_trusted(authority: Identity, tmp_path: Path) -> None:
    # The proxy has its own certificate; what answers on the SuperLink's port has another's.
    write_identity(tmp_path / "server", server_of(authority))
    (tmp_path / "ca.crt").write_bytes(authority.certificate_pem)
    other = new_authority("other", days=30, now=datetime.now(UTC))
    write_identity(tmp_path / "stranger", server_of(other))

    with (
        superlink_with(tmp_path / "stranger") as stranger,
        proxy_before(stranger, tmp_path) as proxy,
    ):
        status, _ = proxy.ask("/v1/fleet/pull-messages")

    assert status == 502
    assert stranger.seen == []
