"""A line to the coordinator: tries again while it is down, and says why when that is no use."""

import os
import ssl
import threading
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Protocol, TypeVar

# Flower reads these when it is imported.
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

import httpx
from cryptography import x509
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

from common.errors import FoveaError

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

MAX_PAUSE_S = 20.0  # between tries while the line is down
FIRST_PAUSE_S = 0.5


class Trouble(StrEnum):
    """Why the line does not work, for whoever decides what to do next."""

    UNREACHABLE = "unreachable"
    CERTIFICATE = "certificate"  # the server's is not one that the pinned authority signed
    REFUSED = "refused"  # the coordinator does not let this node in
    STILL_OPEN = "still-open"  # an earlier connection of this site counts as alive
    UNKNOWN_NODE = "unknown-node"  # key, node or time of day are not what it knows
    RUN_OVER = "run-over"
    GONE = "gone"  # the message's content is no longer there
    STOPPED = "stopped"  # this process was asked to end


class FleetError(FoveaError):
    """The coordinator cannot be reached or says no: the message names the reason and remedy."""

    def __init__(self, trouble: Trouble, message: str) -> None:
        """Take the reason for machines and for people."""
        super().__init__(message)
        self.trouble = trouble


class Watcher(Protocol):
    """Is told how the line is; called from several threads."""

    def reached(self) -> None:
        """Take note that the coordinator has answered."""
        ...

    def troubled(self, problem: str) -> None:
        """Take note of what is wrong; the line tries again by itself."""
        ...

    def certified(self, expires: datetime) -> None:
        """Take note of when the server's certificate expires."""
        ...

    def moved(self, *, bytes_in: int, bytes_out: int) -> None:
        """Take note of content that came or went."""
        ...


class Line:
    """Calls the coordinator; safe to use from several threads."""

    def __init__(self, watcher: Watcher, stop: threading.Event) -> None:
        """Take who is told how the line is, and the event after which nothing is tried again."""
        self.watcher = watcher
        self.stop = stop
        self.is_down = False
        self.is_unknown = False  # the coordinator no longer knows this node

    def call(self, method: Callable[[RequestT], ResponseT], request: RequestT) -> ResponseT:
        """Call until it works, the coordinator says no, or this process is asked to end."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return self.once(method, request)
            except FleetError as error:
                if error.trouble != Trouble.UNREACHABLE or self.is_unknown:
                    raise
                if self.stop.wait(pause_s):
                    raise
            pause_s = min(pause_s * 2, MAX_PAUSE_S)

    def once(self, method: Callable[[RequestT], ResponseT], request: RequestT) -> ResponseT:
        """Call one time. Raises FleetError."""
        try:
            response = method(request)
        except httpx.HTTPStatusError as error:
            raise self._noted(_refusal(error.response)) from error
        except httpx.TransportError as error:
            raise self._noted(_broken_line(error)) from error
        # Flower's word for an answer that is not protobuf: something else answers there.
        except ValueError as error:
            refusal = FleetError(
                Trouble.UNREACHABLE, f"what answers is not a coordinator ({error})."
            )
            raise self._noted(refusal) from error
        self.is_down = self.is_unknown = False
        self.watcher.reached()
        return response

    def _noted(self, error: FleetError) -> FleetError:
        if error.trouble in (Trouble.UNREACHABLE, Trouble.CERTIFICATE):
            self.is_down = True
            self.watcher.troubled(str(error))
        elif error.trouble == Trouble.UNKNOWN_NODE:
            self.is_unknown = True
        return error


class CertificateReader:
    """Reads the server's certificate off the connection that an answer came over."""

    def __init__(self, watcher: Watcher) -> None:
        """Take who is told."""
        self._watcher = watcher
        self._last = b""

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Pass the call on; Flower's form of an interceptor."""
        response = call_next(context)
        stream = response.extensions.get("network_stream")
        line = stream.get_extra_info("ssl_object") if stream is not None else None
        certificate = line.getpeercert(True) if line is not None else None
        if certificate and certificate != self._last:
            self._last = certificate
            expires = x509.load_der_x509_certificate(certificate).not_valid_after_utc
            self._watcher.certified(expires)
        return response


def _refusal(response: httpx.Response) -> FleetError:
    status = response.status_code
    if status in (502, 503, 504):
        return FleetError(
            Trouble.UNREACHABLE, f"the coordinator is not running behind its proxy ({status})."
        )
    if status == httpx.codes.UNAUTHORIZED:
        return FleetError(
            Trouble.UNKNOWN_NODE,
            "the coordinator does not accept this site's key: it was retired, or this machine's "
            "clock is wrong. Compare the clock, then ask the coordinator.",
        )
    if status == httpx.codes.FORBIDDEN:
        return FleetError(Trouble.RUN_OVER, "the run is over.")
    return FleetError(Trouble.REFUSED, f"the coordinator refused ({status}).")


def _broken_line(error: httpx.TransportError) -> FleetError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return FleetError(
                Trouble.CERTIFICATE,
                f"the coordinator's certificate is not trusted: {cause.verify_message}. Ask the "
                "coordinator whether it was renewed; a new authority comes with a new kit.",
            )
        cause = cause.__cause__ or cause.__context__
    return FleetError(
        Trouble.UNREACHABLE,
        f"the coordinator cannot be reached ({type(error).__name__}: {error}). Check the network "
        "and the address in connector.yaml.",
    )
