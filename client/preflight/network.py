"""Looks at the way to the coordinator: name, connection, certificate, clock. Sends nothing of ours.

Each step is told by itself, because another person mends each: name server, firewall, certificate,
clock.
"""

import email.utils
import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509

from client.preflight.finding import Finding, error, ok, warning
from client.preflight.keys import expiry
from common.errors import FoveaError, TrustError
from common.messages.certificates import check_server_certificate, read_authorities

TIMEOUT_S = 10.0
# Flower refuses a request stamped 5 s after its own clock or 305 s before it.
AHEAD_LIMIT_S = 5.0
AHEAD_WARNING_S = 3.0
BEHIND_LIMIT_S = 240.0
BEHIND_WARNING_S = 30.0
_RENEW = "The coordinator renews it with `fovea renew`; tell them."


@dataclass(frozen=True)
class Clock:
    """What time it is, also when looking at other things has taken a while."""

    told: datetime
    at: float  # of time.monotonic()

    def now(self) -> datetime:
        """Return the time."""
        return self.told + timedelta(seconds=time.monotonic() - self.at)


@dataclass(frozen=True)
class _Way:
    """Where the coordinator is, and through what."""

    host: str
    port: int
    proxy: tuple[str, int] | None


@dataclass(frozen=True)
class _Answer:
    """What the other end showed."""

    certificate: x509.Certificate
    date: datetime | None  # of its clock, whole seconds
    asked: datetime  # of ours, half-way between question and answer


def check_way(
    endpoint: str, authority: Path, *, clock: Clock, warning_days: int
) -> Iterator[Finding]:
    """Go the way to the coordinator step by step; stop where it ends.

    Args:
        endpoint: ``host:port``.
        authority: The pinned certificate authority.
        clock: This machine's.
        warning_days: Warn when the server's certificate ends sooner.
    """
    host, _, port_text = endpoint.rpartition(":")
    if not host or not port_text.isdecimal():
        yield error("coordinator", f"{endpoint!r} is not host:port", "Correct connector.yaml.")
        return
    port = int(port_text)
    proxy = proxy_for(host)
    if proxy is not None:
        yield warning(
            "proxy",
            f"the connection goes through {proxy[0]}:{proxy[1]} (environment)",
            f"If it should not, set no_proxy={host} for the connector.",
        )
    there = proxy or (host, port)
    try:
        socket.getaddrinfo(*there, type=socket.SOCK_STREAM)
    except OSError as problem:
        yield error(
            "name",
            f"{there[0]} is not known ({problem.strerror})",
            "Ask for the name in the hospital's name server, or correct connector.yaml.",
        )
        return
    yield ok("name", f"{there[0]} is known")
    try:
        socket.create_connection(there, timeout=TIMEOUT_S).close()
    except OSError as problem:
        yield error(
            "connection",
            f"no answer from {there[0]} port {there[1]} ({problem.strerror or 'timed out'})",
            "Ask for the outbound connection to be opened in the firewall, and whether the "
            "coordinator is up.",
        )
        return
    yield ok("connection", f"{there[0]} port {there[1]} answers")
    way = _Way(host, port, proxy)
    yield from _server(way, authority, clock=clock, warning_days=warning_days)


def proxy_for(host: str) -> tuple[str, int] | None:
    """Return the proxy that the environment names for a host, None where there is none."""
    proxies = urllib.request.getproxies_environment()
    address = proxies.get("https") or proxies.get("all")
    bypassed = [name.strip().lstrip(".") for name in proxies.get("no", "").split(",")]
    if not address or any(
        name in ("*", host) or host.endswith(f".{name}") for name in bypassed if name
    ):
        return None
    parts = urlsplit(address if "://" in address else f"http://{address}")
    return (parts.hostname or "", parts.port or 80)


def _server(way: _Way, authority: Path, *, clock: Clock, warning_days: int) -> Iterator[Finding]:
    """Look at the server's certificate and clock."""
    try:
        answer = _ask(way, clock)
    except (OSError, ValueError) as problem:
        yield error(
            "TLS",
            f"no TLS with {way.host} port {way.port} ({problem})",
            "A proxy or firewall may break the connection open, or another service answers there: "
            "ask the network's administrators.",
        )
        return
    yield _certificate(way, authority, answer, clock)
    yield expiry(
        "server certificate",
        answer.certificate.not_valid_before_utc,
        answer.certificate.not_valid_after_utc,
        now=clock.now(),
        warning_days=warning_days,
        remedy=_RENEW,
    )
    yield skew(answer.asked, answer.date)


def _certificate(way: _Way, authority: Path, answer: _Answer, clock: Clock) -> Finding:
    remedy = (
        "Compare the fingerprint of ca.crt with the coordinator's by telephone. A firewall that "
        "opens TLS shows its own certificate: have this address excepted."
    )
    try:
        authorities = read_authorities(authority)
        check_server_certificate(answer.certificate, authorities, host=way.host, now=clock.now())
        # The connector's own library has the last word.
        with closing(_tunnel(way)) as plain:
            context = ssl.create_default_context(cafile=str(authority))
            context.wrap_socket(plain, server_hostname=way.host).close()
    except TrustError as problem:
        return error("TLS", str(problem), remedy)
    except (OSError, FoveaError) as problem:
        return error("TLS", f"the certificate of {way.host} is refused ({problem})", remedy)
    return ok("TLS", f"the certificate is {way.host}'s, by the pinned authority")


def skew(ours: datetime, theirs: datetime | None) -> Finding:
    """Return what the difference of two clocks means; theirs is cut to whole seconds."""
    remedy = "Set the clock by a time server: `timedatectl set-ntp true`."
    if theirs is None:
        return warning("clock", "the coordinator tells no time", "Compare the clocks by hand.")
    ahead = (ours - theirs).total_seconds() - 0.5
    if ahead >= AHEAD_LIMIT_S:
        return error(
            "clock",
            f"{ahead:.0f} s ahead of the coordinator's, which refuses {AHEAD_LIMIT_S:.0f} s",
            remedy,
        )
    if -ahead >= BEHIND_LIMIT_S:
        return error("clock", f"{-ahead:.0f} s behind the coordinator's", remedy)
    if ahead >= AHEAD_WARNING_S or -ahead >= BEHIND_WARNING_S:
        which = "ahead of" if ahead > 0 else "behind"
        return warning("clock", f"{abs(ahead):.0f} s {which} the coordinator's", remedy)
    return ok("clock", f"within {max(1.0, abs(ahead)):.0f} s of the coordinator's")


def _ask(way: _Way, clock: Clock) -> _Answer:
    """Return the certificate and clock that are shown, before deciding whether to trust them."""
    context = ssl.create_default_context()
    context.check_hostname = False
    # Nothing is sent here but an empty request: what is wrong must be seen to be told.
    context.verify_mode = ssl.CERT_NONE
    with (
        closing(_tunnel(way)) as plain,
        context.wrap_socket(plain, server_hostname=way.host) as secured,
    ):
        shown = secured.getpeercert(binary_form=True)
        if shown is None:
            raise ValueError("no certificate is shown")
        before = clock.now()
        secured.sendall(
            f"HEAD / HTTP/1.1\r\nHost: {way.host}\r\nConnection: close\r\n\r\n".encode()
        )
        head = _head(secured)
        asked = before + (clock.now() - before) / 2
    return _Answer(x509.load_der_x509_certificate(shown), _date(head), asked)


def _tunnel(way: _Way) -> socket.socket:
    """Return a connection to the coordinator, through the proxy where there is one."""
    plain = socket.create_connection(way.proxy or (way.host, way.port), timeout=TIMEOUT_S)
    if way.proxy is None:
        return plain
    try:
        target = f"{way.host}:{way.port}"
        plain.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        status = _head(plain).split("\r\n", 1)[0]
        if status.split(" ")[1:2] != ["200"]:
            raise ConnectionError(f"the proxy answers {status!r}")
    except BaseException:
        plain.close()
        raise
    return plain


def _head(connection: socket.socket) -> str:
    """Return the head of an HTTP answer."""
    head = b""
    while b"\r\n\r\n" not in head and len(head) < 65536:
        more = connection.recv(4096)
        if not more:
            break
        head += more
    return head.decode("latin-1")


def _date(head: str) -> datetime | None:
    for line in head.split("\r\n")[1:]:
        name, _, value = line.partition(":")
        if name.strip().lower() == "date":
            try:
                return email.utils.parsedate_to_datetime(value.strip()).astimezone(UTC)
            except ValueError:
                return None
    return None
