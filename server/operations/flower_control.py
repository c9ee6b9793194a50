"""The coordinator's one way to Flower's control API: nodes and runs, over TLS on loopback."""

import hashlib
import ssl
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
    load_ssh_public_key,
)
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.proto.transport_pb2 import Scalar
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import ApiErrorCode, FlowerError

from common.errors import ConfigError, RunError, TrustError
from server.operations.federation_file import read_federation
from server.operations.home import CoordinatorHome

HOST = "127.0.0.1"  # the control API asks for no password: it must never be anywhere else
TIMEOUT_S = 30.0
PAGE = 200  # runs per question

_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Node:
    """A node that Flower knows."""

    node_id: int
    name: str
    key: str  # public, an OpenSSH line without comment
    is_online: bool
    online_until: datetime | None  # when its last heartbeat's time is over


@dataclass(frozen=True)
class FlowerRun:
    """One Flower run; a Fovea run that was resumed has several."""

    run_id: int
    config: Mapping[str, str]  # what it was started with
    status: str  # pending, starting, running or finished
    result: str  # of a finished one: completed, failed or stopped

    @property
    def is_finished(self) -> bool:
        """Say whether its process has ended."""
        return self.status == "finished"


class FlowerControl(AbstractContextManager["FlowerControl"]):
    """Asks the SuperLink of this machine. Use as a context manager.

    Every method raises RunError when the SuperLink does not answer or says no, and TrustError when
    what answers is not ours.
    """

    def __init__(self, *, port: int, authority: Path) -> None:
        """Speak to a port of this machine whose certificate the authority signed."""
        self._port = port
        self._client = _LoopbackClient(port, authority)

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self._client.close()

    def register(self, public_key: bytes, name: str) -> int:
        """Let the node with a key (an OpenSSH line) connect; return its id, new or as it was."""
        line = b" ".join(public_key.split()[:2]).decode()
        for node in self.nodes():
            if node.key == line:
                return node.node_id
        request = RegisterNodeRequest(public_key=_pem(public_key), name=name)
        return self._ask(lambda: self._client.RegisterNode(request)).node_id

    def unregister(self, node_id: int) -> None:
        """Let a node connect no more; nothing happens when it is gone.

        Its key can never be registered again.
        """
        request = UnregisterNodeRequest(node_id=node_id)
        try:
            self._ask(lambda: self._client.UnregisterNode(request))
        except FlowerRefusalError as refusal:
            if refusal.code != ApiErrorCode.NODE_NOT_FOUND:
                raise

    def nodes(self) -> tuple[Node, ...]:
        """Return every registered node."""
        answer = self._ask(lambda: self._client.ListNodes(ListNodesRequest()))
        return tuple(
            Node(
                node_id=info.node_id,
                name=info.name,
                key=_openssh(info.public_key),
                is_online=info.status == "online",
                online_until=datetime.fromtimestamp(info.online_until).astimezone()
                if info.HasField("online_until")
                else None,
            )
            for info in answer.nodes_info
            if info.status != "unregistered"
        )

    def start_run(self, bundle: bytes, config: Mapping[str, str]) -> int:
        """Start a run of an app bundle with these values in its run config; return Flower's id."""
        request = StartRunRequest(
            fab=Fab(hash_str=hashlib.sha256(bundle).hexdigest(), content=bundle),
            override_config={key: Scalar(string=value) for key, value in config.items()},
        )
        answer = self._ask(lambda: self._client.StartRun(request))
        if not answer.HasField("run_id"):
            raise FlowerRefusalError(
                "Flower did not start the run: see the SuperLink's log for its reason.", code=0
            )
        return answer.run_id

    def runs(self) -> tuple[FlowerRun, ...]:
        """Return every run, the newest first; Flower drops finished runs' messages on the way."""
        found: list[FlowerRun] = []
        while True:
            request = ListRunsRequest(limit=PAGE, skip=len(found))
            answer = self._ask(lambda request=request: self._client.ListRuns(request))  # type: ignore[misc]
            page = sorted(answer.run_dict.values(), key=lambda run: run.pending_at, reverse=True)
            found += [
                FlowerRun(
                    run_id=run.run_id,
                    config={key: value.string for key, value in run.override_config.items()},
                    status=run.status.status,
                    result=run.status.sub_status,
                )
                for run in page
            ]
            if len(page) < PAGE:
                return tuple(found)

    def stop_run(self, run_id: int) -> None:
        """End a run's process; nothing happens when it has ended."""
        request = StopRunRequest(run_id=run_id)
        try:
            self._ask(lambda: self._client.StopRun(request))
        except FlowerRefusalError as refusal:
            if refusal.code != ApiErrorCode.RUN_ALREADY_FINISHED:
                raise

    def _ask(self, call: Callable[[], _Answer]) -> _Answer:
        try:
            return call()
        except httpx.HTTPStatusError as error:
            raise _refusal(error) from error
        except httpx.HTTPError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise TrustError(
                    f"{HOST}:{self._port}: its certificate is not valid ({error}). Another program "
                    "may listen there; or renew the certificate: `fovea renew server`."
                ) from error
            raise RunError(
                f"Flower's SuperLink does not answer at {HOST}:{self._port}. Start it with "
                "`fovea serve`, on this machine and for this --home."
            ) from error


class FlowerRefusalError(RunError):
    """The SuperLink said no: its log says more."""

    def __init__(self, message: str, code: int) -> None:
        """Keep Flower's code beside the sentence."""
        super().__init__(message)
        self.code = code


def control_of(home: CoordinatorHome) -> FlowerControl:
    """Return the way to the SuperLink of a coordinator."""
    federation = read_federation(home.federation_file)
    return FlowerControl(port=federation.superlink_port, authority=home.authority)


class _LoopbackClient(ControlHttpClient):
    """Flower's client, but deaf to the proxies of the environment: it stays on this machine."""

    def __init__(self, port: int, authority: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(cafile=authority)
        except OSError as error:
            raise TrustError(
                f"{authority}: the certificate authority cannot be read ({error.strerror}). "
                "Is this the --home that `fovea provision` wrote?"
            ) from error
        super().__init__(f"https://{HOST}:{port}", verify=context, timeout=TIMEOUT_S)
        self._client.close()
        self._client = httpx.Client(verify=context, timeout=TIMEOUT_S, trust_env=False)


def _refusal(error: httpx.HTTPStatusError) -> FlowerRefusalError:
    said = FlowerError.from_json(error.response.text)
    if said is None:
        status = error.response.status_code
        return FlowerRefusalError(f"Flower's SuperLink answered with HTTP {status}.", code=0)
    if said.code == ApiErrorCode.PUBLIC_KEY_ALREADY_IN_USE:
        return FlowerRefusalError(
            "Flower knew this node key before its site was retired and takes it no more. The site "
            "makes a new one with `fovea-site init`.",
            said.code,
        )
    more = f" ({said.public_details})" if said.public_details else ""
    return FlowerRefusalError(f"Flower's SuperLink says no: {said.message}{more}", said.code)


def _pem(public_key: bytes) -> bytes:
    try:
        key = load_ssh_public_key(public_key)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError("the node key is no OpenSSH public key. Ask the site anew.") from error
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _openssh(pem: bytes) -> str:
    key = load_pem_public_key(pem)
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
