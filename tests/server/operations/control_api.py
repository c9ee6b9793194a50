"""Flower's control API as a SuperLink in trouble offers it: over TLS, with answers that fail."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

from flwr.proto.control_pb2 import (
    ListNodesResponse,
    ListRunsResponse,
    RegisterNodeRequest,
    RegisterNodeResponse,
    StartRunRequest,
    UnregisterNodeRequest,
    UnregisterNodeResponse,
)
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.run_pb2 import Run

from server.operations.federation_file import read_federation
from server.operations.home import CoordinatorHome


@dataclass
class ControlApi:
    """What it knows, and what it was asked."""

    nodes: list[NodeInfo] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    ids: Iterator[int] = field(default_factory=lambda: count(1))
    starts_runs: bool = True  # though it never says so
    is_silent_after_start: bool = False
    before_listing_nodes: Callable[[], None] = lambda: None
    over: threading.Event = field(default_factory=threading.Event)

    def register(self, public_key: bytes, name: str) -> int:
        """Take a node in its Flower form (PEM)."""
        node_id = next(self.ids)
        self.nodes.append(NodeInfo(node_id=node_id, name=name, public_key=public_key))
        return node_id

    def answer(self, question: str, content: bytes) -> bytes:
        """Return the answer to one question; never, when it is to be silent."""
        was_started = "start-run" in self.asked
        self.asked.append(question)
        if question == "start-run":
            if self.starts_runs:
                config = StartRunRequest.FromString(content).override_config
                self.runs.append(Run(run_id=len(self.runs) + 1, override_config=config))
            self.over.wait()
        if was_started and self.is_silent_after_start:
            self.over.wait()
        if question == "list-nodes":
            self.before_listing_nodes()
            return ListNodesResponse(nodes_info=self.nodes).SerializeToString()
        if question == "register-node":
            request = RegisterNodeRequest.FromString(content)
            node_id = self.register(request.public_key, request.name)
            return RegisterNodeResponse(node_id=node_id).SerializeToString()
        if question == "unregister-node":
            gone = UnregisterNodeRequest.FromString(content).node_id
            self.nodes = [node for node in self.nodes if node.node_id != gone]
            return UnregisterNodeResponse().SerializeToString()
        runs = {run.run_id: run for run in self.runs}
        return ListRunsResponse(run_dict=runs).SerializeToString()


@contextmanager
def control_api(home: CoordinatorHome) -> Iterator[ControlApi]:
    """Answer at the port of a coordinator's SuperLink, with its certificate."""
    api = ControlApi()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["content-length"]))
            answer = api.answer(self.path.rpartition("/")[2], content)
            if api.over.is_set():
                return
            self.send_response(200)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    port = read_federation(home.federation_file).superlink_port
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(home.server_certificate, home.server_key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield api
    finally:
        api.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
