"""The service over a real socket: signed requests, and everything that is too large or too slow."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from client.door.chunks import CHUNK_BYTES, TooLargeError, joined, split
from client.door.service import MAX_ASKING, SERVICE, Server, TrainerStub, serve
from client.door.site_pb2 import Chunk
from common.errors import SiteError, WireError
from common.messages.kinds import Refusal, RefusalCode, Update
from common.messages.signing import PrivateKey
from hospital import CountingTrainer, Hospital, wait_until

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def server(hospital: Hospital, trainer: CountingTrainer) -> Iterator[Server]:
    limits = hospital.settings.limits.model_copy(update={"request_mb": 3})
    desk = hospital.desk(trainer)
    running = serve(desk, hospital.home.socket, limits, transfer_s=1.0)
    desk.warm()
    running.refresh()
    yield running
    trainer.may_go_on.set()
    running.stop(grace_s=2.0)


@pytest.fixture
def stub(server: Server, hospital: Hospital) -> Iterator[TrainerStub]:
    del server
    stub = TrainerStub(hospital.home.socket, request_mb=8)
    yield stub
    stub.close()


def raw_ask(hospital: Hospital, chunks: Iterator[Chunk], timeout_s: float = 10) -> list[Chunk]:
    with grpc.insecure_channel(f"unix:{hospital.home.socket}") as channel:
        ask = channel.stream_stream(
            f"/{SERVICE}/Ask",
            request_serializer=Chunk.SerializeToString,
            response_deserializer=Chunk.FromString,
        )
        return list(ask(chunks, timeout=timeout_s))


def test_the_committed_messages_are_what_the_tool_makes(tmp_path: Path) -> None:
    tool = [sys.executable, "-m", "grpc_tools.protoc", "-I", "."]
    made = [f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", "client/door/site.proto"]

    subprocess.run([*tool, *made], cwd=REPOSITORY, check=True)

    for name in ("site_pb2.py", "site_pb2.pyi"):
        assert (tmp_path / "client" / "door" / name).read_text() == (
            REPOSITORY / "client" / "door" / name
        ).read_text(), "run `make proto`"


def test_the_door_loads_no_heavy_library() -> None:
    heavy = "torch", "torchvision", "timm", "captum", "opacus", "mlflow"
    of_the_site = (
        "door.service",
        "desk.desk",
        "records.audit",
        "desk.answers",
        "operations.trainer_process",
    )
    modules = ", ".join(f"client.{name}" for name in of_the_site)
    code = f"import sys, {modules}; print(*[m for m in {heavy} if m in sys.modules])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == ""


def test_a_signed_request_is_answered_and_its_repeat_gets_the_same_bytes(
    hospital: Hospital, stub: TrainerStub, trainer: CountingTrainer
) -> None:
    request = hospital.train_request()
    content = hospital.sealed(request, hospital.approved())

    answers = [stub.ask(content, 10) for _ in range(2)]

    assert isinstance(hospital.opened(answers[0], request), Update)
    assert answers[0] == answers[1]
    assert len(trainer.trained) == 1


def test_a_hostile_connector_gets_refusals_and_leaves_traces(
    hospital: Hospital, stub: TrainerStub, trainer: CountingTrainer
) -> None:
    manifest, request = hospital.approved(), hospital.train_request(2)
    stub.ask(hospital.sealed(request, manifest), 10)
    earlier = hospital.train_request(1)
    forged = hospital.sealed(hospital.train_request(3), manifest, key=PrivateKey.new())
    altered = hospital.sealed(request, manifest).replace(b"run-1", b"run-2")

    told = [
        hospital.opened(stub.ask(forged, 10), hospital.train_request(3)),
        hospital.opened(stub.ask(hospital.sealed(earlier, manifest), 10), earlier),
        stub.ask(altered, 10),
    ]

    assert isinstance(told[0], Refusal)
    assert told[0].code is RefusalCode.UNTRUSTED
    assert isinstance(told[1], Refusal)
    assert told[1].code is RefusalCode.OUT_OF_ORDER
    assert len(trainer.trained) == 1
    assert hospital.events().count("request-refused") == 3


def test_a_message_of_many_chunks_arrives_whole(hospital: Hospital, stub: TrainerStub) -> None:
    import numpy as np

    large = {"trunk.weight": np.random.default_rng(1).normal(size=600_000).astype(np.float32)}
    hospital.arrays = large
    request = hospital.train_request()

    answer = hospital.opened(stub.ask(hospital.sealed(request, hospital.approved()), 10), request)

    assert isinstance(answer, Update)
    assert answer.arrays["trunk.weight"].shape == (600_000,)


def test_a_request_beyond_the_sites_limit_is_turned_away_unread(
    hospital: Hospital, stub: TrainerStub
) -> None:
    with pytest.raises(TooLargeError, match=r"of 4\.0 MB; at most 3 MB"):
        stub.ask(bytes(4 * 2**20), 10)
    with pytest.raises(TooLargeError, match="more than 8 MB"):
        stub.ask(bytes(9 * 2**20), 10)
    (refused,) = hospital.records()
    assert (refused["event"], refused["code"]) == ("request-refused", "turned-away")
    assert "of 4.0 MB" in str(refused["reason"])


@pytest.mark.parametrize(
    ("chunks", "says"),
    [
        ([Chunk(data=b"abc")], "its size first"),
        ([Chunk(total_bytes=2), Chunk(data=b"abc")], "more came"),
        ([Chunk(total_bytes=9), Chunk(data=b"abc")], "3 of 9 bytes"),
        ([Chunk(total_bytes=9), Chunk(total_bytes=9)], "expected data"),
        ([], "0 of 0 bytes"),
    ],
)
def test_parts_that_are_no_whole_message_are_turned_away(
    hospital: Hospital, server: Server, chunks: list[Chunk], says: str
) -> None:
    del server
    with pytest.raises(grpc.RpcError) as caught:
        raw_ask(hospital, iter(chunks))

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert says in caught.value.details()
    (refused,) = hospital.records()
    assert refused["code"] == "turned-away"
    assert says in str(refused["reason"])


def test_a_gigantic_single_part_is_turned_away(hospital: Hospital, server: Server) -> None:
    del server
    with pytest.raises(grpc.RpcError) as caught:
        raw_ask(hospital, iter([Chunk(total_bytes=8), Chunk(data=bytes(5 * 2**20))]))

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_whoever_stalls_in_the_middle_of_a_request_is_cut_off(
    hospital: Hospital, server: Server
) -> None:
    del server
    end = threading.Event()

    def stalling() -> Iterator[Chunk]:
        yield Chunk(total_bytes=8)
        end.wait(timeout=10)

    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        raw_ask(hospital, stalling())
    end.set()

    assert caught.value.code() is grpc.StatusCode.CANCELLED
    assert time.monotonic() - began < 5


def test_many_askers_leave_room_for_health_and_report(
    hospital: Hospital, stub: TrainerStub, trainer: CountingTrainer
) -> None:
    content = hospital.sealed(hospital.train_request(), hospital.approved())
    trainer.may_go_on.clear()
    with ThreadPoolExecutor(MAX_ASKING) as pool:
        asked = [pool.submit(stub.ask, content, 20) for _ in range(MAX_ASKING)]
        wait_until(lambda: hospital.events().count("request-received") == MAX_ASKING, seconds=10)
        with pytest.raises(SiteError, match="too many requests"):
            stub.ask(content, 10)
        is_serving, busy_since = stub.is_serving(5), stub.report(5).busy_since
        trainer.may_go_on.set()
        answers = {future.result(timeout=20) for future in asked}

    assert "too many" in str(hospital.records()[MAX_ASKING + 1]["reason"])
    assert is_serving
    assert busy_since == hospital.now
    assert len(answers) == 1


def test_a_broken_line_does_not_stop_the_work(
    hospital: Hospital, stub: TrainerStub, trainer: CountingTrainer
) -> None:
    content = hospital.sealed(hospital.train_request(), hospital.approved())
    trainer.may_go_on.clear()
    with pytest.raises(SiteError, match="did not answer in time"):
        stub.ask(content, 0.3)
    trainer.may_go_on.set()

    answer = hospital.opened(stub.ask(content, 10), hospital.train_request())

    assert isinstance(answer, Update)
    assert len(trainer.trained) == 1


def test_health_says_whether_the_site_is_able_and_not_only_alive(
    hospital: Hospital, server: Server, stub: TrainerStub
) -> None:
    assert stub.is_serving(5)

    hospital.home.pause_marker.parent.mkdir(parents=True, exist_ok=True)
    hospital.home.pause_marker.touch()
    server.refresh()

    assert not stub.is_serving(5)
    assert stub.is_listening(5)
    assert stub.report(5).is_paused
    server.drain()
    assert not stub.is_listening(5)


def test_the_socket_is_open_to_owner_and_group_alone(hospital: Hospital, server: Server) -> None:
    mode = hospital.home.socket.stat().st_mode & 0o777
    former = os.umask(0o022)
    os.umask(former)

    assert mode == 0o660
    assert former != 0o117
    server.stop(grace_s=0)
    assert not hospital.home.socket.exists()


def test_a_stale_socket_is_replaced_and_a_living_one_is_not(
    hospital: Hospital, trainer: CountingTrainer
) -> None:
    path = hospital.home.socket
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    running = serve(hospital.desk(trainer), path, hospital.settings.limits)

    with pytest.raises(SiteError, match="another trainer answers"):
        serve(hospital.desk(trainer), path, hospital.settings.limits)
    running.stop(grace_s=0)


def test_too_long_a_path_is_said(hospital: Hospital, short_path: Path) -> None:
    limits = hospital.settings.limits
    desk = hospital.desk(CountingTrainer(card=None))  # type: ignore[arg-type]

    with pytest.raises(SiteError, match="at most 107"):
        serve(desk, short_path / ("a" * 100), limits)
    with pytest.raises(SiteError, match="at most 107"):
        TrainerStub(short_path / ("a" * 100), request_mb=1)


def test_a_trainer_that_is_away_is_said_and_found_again(
    hospital: Hospital, trainer: CountingTrainer
) -> None:
    stub = TrainerStub(hospital.home.socket, request_mb=1)
    with pytest.raises(SiteError, match="is it running"):
        stub.ask(b"anything", 5)
    assert not stub.is_listening(1)

    running = serve(hospital.desk(trainer), hospital.home.socket, hospital.settings.limits)

    wait_until(lambda: stub.is_listening(1), seconds=5)
    running.stop(grace_s=0)
    stub.close()


class BrokenDesk:
    """A desk whose own programme is at fault."""

    def answer(self, content: bytes, *, is_wanted: object) -> bytes:
        raise ValueError("patient-7")

    def turned_away(self, reason: str) -> None:
        raise NotImplementedError

    def report(self) -> object:
        raise ValueError("patient-7")

    def reasons_against(self) -> tuple[str, ...]:
        return ()


def test_an_exceptions_text_does_not_pass_the_socket(hospital: Hospital) -> None:
    limits = hospital.settings.limits
    running = serve(BrokenDesk(), hospital.home.socket, limits)  # type: ignore[arg-type]
    stub = TrainerStub(hospital.home.socket, request_mb=1)

    for call in (lambda: stub.ask(b"anything", 5), lambda: stub.report(5)):
        with pytest.raises(SiteError, match="its log says why") as caught:
            call()
        assert "patient-7" not in str(caught.value)
    running.stop(grace_s=0)
    stub.close()


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_what_is_split_is_joined_again(size: int) -> None:
    content = os.urandom(size)

    assert joined(split(content), most_mb=3) == content
    with pytest.raises(WireError):
        joined([*split(content), Chunk(data=b"x")], most_mb=3)
