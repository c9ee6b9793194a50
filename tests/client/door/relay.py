"""A Unix socket before the trainer's, which passes everything on and keeps what was said."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_PIECE = 2**16


@dataclass
class Relay:
    """What came through every connection, the connections in the order of their beginning."""

    from_trainer: list[bytearray] = field(default_factory=list)
    from_connector: list[bytearray] = field(default_factory=list)
    _ends: list[socket.socket] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    def serve(self, listening: socket.socket, trainer: Path) -> None:
        while True:
            try:
                connector, _ = listening.accept()
            except OSError:
                return  # shut: the test is over
            behind = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            behind.connect(str(trainer))
            self._ends += [connector, behind]
            self._begin(behind, connector, self.from_trainer)
            self._begin(connector, behind, self.from_connector)

    def close(self) -> None:
        for end in self._ends:
            _shut(end)
        for thread in self._threads:
            thread.join(timeout=5)
        for end in self._ends:
            end.close()

    def _begin(self, source: socket.socket, sink: socket.socket, kept: list[bytearray]) -> None:
        record = bytearray()
        kept.append(record)
        thread = threading.Thread(target=_pass_on, args=(source, sink, record), daemon=True)
        self._threads.append(thread)
        thread.start()


def _pass_on(source: socket.socket, sink: socket.socket, record: bytearray) -> None:
    with suppress(OSError):  # the other end is gone
        while piece := source.recv(_PIECE):
            record += piece
            sink.sendall(piece)
    _shut(source)
    _shut(sink)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):  # it is shut already
        end.shutdown(socket.SHUT_RDWR)


@contextmanager
def relayed(path: Path, trainer: Path) -> Iterator[Relay]:
    """Listen at a path and pass everything on to the trainer's socket."""
    relay = Relay()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(str(path))
        listening.listen()
        thread = threading.Thread(target=relay.serve, args=(listening, trainer), daemon=True)
        thread.start()
        yield relay
        _shut(listening)
        thread.join(timeout=5)
    relay.close()
