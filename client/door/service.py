"""The trainer's gRPC service on a Unix socket, and the stub that speaks to it.

Who may connect is decided by the permissions of the folder ``run/`` and of the socket: gRPC for
Python does not tell a handler whose process it talks to (SO_PEERCRED). It need not: what comes
through is believed only when the coordinator's run key signed it.
"""

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar

import grpc
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub, add_HealthServicer_to_server
from pydantic import ValidationError

from client.door.chunks import TooLargeError, joined, split
from client.door.desk_report import DeskReport
from client.door.site_pb2 import Chunk, ReportReply, ReportRequest
from client.home.site import LimitSettings
from client.home.socket_file import check_length, clear, nobody_answers
from common.errors import SiteError, WireError

log = logging.getLogger(__name__)

SERVICE = "fovea.site.v1.Trainer"
TRANSFER_S = 60.0  # for a whole request or answer to pass the socket
MAX_ASKING = 4  # requests inside at once; one is worked on, the others wait for it or are refused

_TOO_MANY = "too many requests at once."
_THREADS = 2 * MAX_ASKING  # so that health and reports are answered while requests wait
_MESSAGE_BYTES = 2 * 2**20  # of one gRPC message: a chunk and what surrounds it
_LENGTHS = [
    ("grpc.max_send_message_length", _MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
]
# A trainer that was restarted is found again within a second.
_RECONNECTS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
]

Answered = TypeVar("Answered")


class AnyDesk(Protocol):
    """Whoever answers behind the service."""

    def answer(self, content: bytes, *, is_wanted: Callable[[], bool]) -> bytes | None:
        """Return the answer to a request; None when nobody waits any more."""
        ...

    def turned_away(self, reason: str) -> None:
        """Note what was refused before it came as far as the desk."""
        ...

    def report(self) -> DeskReport:
        """Say how things stand."""
        ...

    def reasons_against(self) -> tuple[str, ...]:
        """Return why a permitted request would not be carried out now."""
        ...


class Server:
    """A running service."""

    def __init__(
        self, server: grpc.Server, *, health: HealthServicer, desk: AnyDesk, socket: Path
    ) -> None:
        """Take the parts."""
        self._server, self._health, self._desk, self._socket = server, health, desk, socket

    def refresh(self) -> None:
        """Tell those who ask for health whether the site is able to train; to be called often."""
        is_able = not self._desk.reasons_against()
        state = HealthCheckResponse.SERVING if is_able else HealthCheckResponse.NOT_SERVING
        self._health.set(SERVICE, state)

    def drain(self) -> None:
        """Tell those who ask for health to come again later: the site is about to stop."""
        self._health.enter_graceful_shutdown()

    def stop(self, *, grace_s: float) -> None:
        """Take no more calls, let those inside end for so long, and remove the socket."""
        self.drain()
        self._server.stop(grace_s).wait()
        self._socket.unlink(missing_ok=True)


def serve(
    desk: AnyDesk, socket: Path, limits: LimitSettings, *, transfer_s: float = TRANSFER_S
) -> Server:
    """Start answering on a socket of mode 0660.

    Raises SiteError when its path is too long, another trainer answers there, or something that
    is no socket stands in its place.
    """
    socket = socket.absolute()
    clear(socket)
    server = grpc.server(
        ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="service"),
        options=[*_LENGTHS, ("grpc.so_reuseport", 0)],
    )
    service = _Service(desk, request_mb=limits.request_mb, transfer_s=transfer_s)
    server.add_generic_rpc_handlers((service.handlers(),))
    health = HealthServicer()
    add_HealthServicer_to_server(health, server)
    health.set("", HealthCheckResponse.SERVING)
    # With the umask, so that there is no moment in which the socket is open to others.
    former = os.umask(0o117)
    try:
        server.add_insecure_port(f"unix:{socket}")
    except RuntimeError as error:
        raise SiteError(f"{socket}: cannot listen there. Mend the folder's rights.") from error
    finally:
        os.umask(former)
    running = Server(server, health=health, desk=desk, socket=socket)
    running.refresh()
    server.start()
    return running


class _Service:
    def __init__(self, desk: AnyDesk, *, request_mb: int, transfer_s: float) -> None:
        self._desk, self._request_mb, self._transfer_s = desk, request_mb, transfer_s
        self._places = threading.BoundedSemaphore(MAX_ASKING)

    def handlers(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Ask": grpc.stream_stream_rpc_method_handler(
                    self._ask,
                    request_deserializer=Chunk.FromString,
                    response_serializer=Chunk.SerializeToString,
                ),
                "Report": grpc.unary_unary_rpc_method_handler(
                    self._report,
                    request_deserializer=ReportRequest.FromString,
                    response_serializer=ReportReply.SerializeToString,
                ),
            },
        )

    def _ask(self, chunks: Iterator[Chunk], context: grpc.ServicerContext) -> Iterator[Chunk]:
        if not self._places.acquire(blocking=False):
            self._turn_away(context, grpc.StatusCode.RESOURCE_EXHAUSTED, _TOO_MANY)
        try:
            content = self._received(chunks, context)
            answer = self._answer(content, context)
            del content  # a model's size, while the answer goes out
            if answer is not None:
                with _bounded(context, self._transfer_s):
                    yield from split(answer)
        finally:
            self._places.release()

    def _received(self, chunks: Iterable[Chunk], context: grpc.ServicerContext) -> bytes:
        try:
            with _bounded(context, self._transfer_s):
                return joined(chunks, most_mb=self._request_mb)
        except TooLargeError as error:
            self._turn_away(context, grpc.StatusCode.OUT_OF_RANGE, str(error))
        except WireError as error:
            self._turn_away(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))

    def _turn_away(
        self, context: grpc.ServicerContext, code: grpc.StatusCode, reason: str
    ) -> NoReturn:
        self._desk.turned_away(reason)
        context.abort(code, reason)

    def _answer(self, content: bytes, context: grpc.ServicerContext) -> bytes | None:
        try:
            return self._desk.answer(content, is_wanted=context.is_active)
        except Exception:
            # gRPC would send the exception's text, which may quote a file, to the connector.
            log.exception("the desk broke down", extra={"action": "desk_broke_down"})
            context.abort(grpc.StatusCode.INTERNAL, "the trainer broke down; its log says why.")

    def _report(self, request: ReportRequest, context: grpc.ServicerContext) -> ReportReply:
        del request
        try:
            return ReportReply(json=self._desk.report().model_dump_json())
        except Exception:
            log.exception("the report broke down", extra={"action": "report_broke_down"})
            context.abort(grpc.StatusCode.INTERNAL, "the trainer broke down; its log says why.")


class TrainerStub:
    """Speaks to the trainer behind a socket; safe to use from several threads."""

    def __init__(self, socket: Path, *, request_mb: int) -> None:
        """Name the socket; nothing is connected before the first call.

        Raises SiteError for a path that is too long for a socket.
        """
        self._socket, self._request_mb = socket.absolute(), request_mb
        check_length(self._socket)
        self._channel = grpc.insecure_channel(
            f"unix:{self._socket}", options=[*_LENGTHS, *_RECONNECTS]
        )
        self._ask = self._channel.stream_stream(
            f"/{SERVICE}/Ask",
            request_serializer=Chunk.SerializeToString,
            response_deserializer=Chunk.FromString,
        )
        self._report = self._channel.unary_unary(
            f"/{SERVICE}/Report",
            request_serializer=ReportRequest.SerializeToString,
            response_deserializer=ReportReply.FromString,
        )
        self._health = HealthStub(self._channel)

    def ask(self, content: bytes, timeout_s: float) -> bytes:
        """Return the answer to a request, all within the time.

        Raises SiteError when the trainer is away or does not answer in time; asking again is
        safe. Raises WireError when the message is too large or came in pieces that do not fit.
        """
        if len(content) > self._request_mb * 2**20:
            raise TooLargeError(f"a request of more than {self._request_mb} MB.")
        with self._told():
            return joined(self._ask(split(content), timeout=timeout_s), most_mb=self._request_mb)

    def report(self, timeout_s: float) -> DeskReport:
        """Return how the trainer stands. Raises SiteError when it is away."""
        with self._told():
            reply = self._report(ReportRequest(), timeout=timeout_s)
        try:
            return DeskReport.model_validate_json(reply.json)
        except ValidationError as error:
            raise SiteError(
                "the trainer's report is of another version of Fovea. Restart the trainer."
            ) from error

    def is_serving(self, timeout_s: float) -> bool:
        """Say whether the site is able to train: not paused, shard open, disk and settings fit."""
        return self._is_healthy(SERVICE, timeout_s)

    def is_listening(self, timeout_s: float) -> bool:
        """Say whether the trainer answers at all; what it cannot do it then refuses, signed."""
        return self._is_healthy("", timeout_s)

    def close(self) -> None:
        """Let go of the connection."""
        self._channel.close()

    def _is_healthy(self, service: str, timeout_s: float) -> bool:
        try:
            reply = self._health.Check(HealthCheckRequest(service=service), timeout=timeout_s)
        except grpc.RpcError:
            return False
        return bool(reply.status == HealthCheckResponse.SERVING)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise _error_of(error, self._socket) from error


def _error_of(error: grpc.RpcError, socket: Path) -> SiteError | WireError:
    code, details = grpc.StatusCode.UNKNOWN, ""
    if isinstance(error, grpc.Call):
        code, details = error.code(), error.details()
    if code is grpc.StatusCode.OUT_OF_RANGE:
        return TooLargeError(details)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return WireError(details)
    if code is grpc.StatusCode.UNAVAILABLE:
        return nobody_answers(socket)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return SiteError("the trainer did not answer in time; it keeps the answer for a repeat.")
    return SiteError(f"the trainer broke off ({code.name}): {details}")


@contextmanager
def _bounded(context: grpc.ServicerContext, seconds: float) -> Iterator[None]:
    """Break a call off that takes longer: whoever stalls holds a place that others need."""
    timer = threading.Timer(seconds, context.cancel)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
