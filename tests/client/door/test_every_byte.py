"""Every byte that a trainer writes to its socket in a whole run, each with its meaning.

A relay between connector and trainer records what the trainer sends. From it HTTP/2, gRPC and the
messages are taken apart again down to the last byte; what is left over would be a leak. Header
blocks are compressed and not read here: their size is counted and bounded.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from coordinator import Coordinator
from http2 import PREFACE, Spoken, frames_of, spoken
from relay import Relay, relayed

from client.consent.policy_file import read_policy
from client.desk.outgoing import limits_of
from client.door.chunks import joined
from client.door.desk_report import DeskReport
from client.door.service import Server, TrainerStub, serve
from client.door.site_pb2 import Chunk, ReportReply
from client.guard.what_leaves import reason_to_keep
from client.home.own_shard import ShardCounts
from common.config.run import RunConfig
from common.messages.digests import message_digest
from common.messages.envelope import encode_signed_answer
from common.messages.kinds import (
    Answer,
    MaskedUpdate,
    QueryRequest,
    Refusal,
    Request,
    Shares,
    Update,
)
from common.messages.manifest import Manifest
from common.messages.record_bytes import from_bytes, to_bytes
from hospital import CountingTrainer, Hospital, make_hospital, make_trial

COUNTS = ShardCounts(14, 4, 14, 4)
HEADER_BYTES_A_CALL = 200  # status, content type, and what gRPC says of itself

MakeConfig = Callable[..., RunConfig]


@dataclass
class Watched:
    """A hospital's trainer behind a relay."""

    hospital: Hospital
    relay: Relay
    stub: TrainerStub
    server: Server
    asked: list[tuple[Request, bytes]] = field(default_factory=list)  # and what was answered

    def answer(self, content: bytes, *, is_wanted: object) -> bytes:
        """Stand in for the desk: the same over the socket."""
        del is_wanted
        return self.stub.ask(content, 20)

    def ask(self, request: Request, manifest: object) -> Answer:
        content = self.stub.ask(self.hospital.sealed(request, manifest), 20)  # type: ignore[arg-type]
        self.asked.append((request, content))
        return self.hospital.opened(content, request)


@contextmanager
def watched(hospital: Hospital, trainer: CountingTrainer) -> Iterator[Watched]:
    desk = hospital.desk(trainer)
    behind = hospital.home.run / "behind.sock"
    server = serve(desk, behind, hospital.settings.limits)
    desk.warm()
    server.refresh()
    with relayed(hospital.home.socket, behind) as relay:
        stub = TrainerStub(hospital.home.socket, request_mb=64)
        yield Watched(hospital, relay, stub, server)
        stub.close()
    server.stop(grace_s=1.0)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def account_for(seen: Watched, manifest: Manifest) -> Spoken:
    """Take apart all that the trainer said; every step must leave nothing over."""
    seen.stub.close()
    seen.server.stop(grace_s=1.0)
    assert len(seen.relay.from_trainer) == 1, "one connection: the stub keeps it"
    content = bytes(seen.relay.from_trainer[0])
    said = spoken(content)
    assert said.explained == len(content)
    assert said.header_bytes <= HEADER_BYTES_A_CALL * len(said.messages)
    assert all(farewell in (b"", b"Server shutdown") for farewell in said.farewells)
    pinged = bytes(seen.relay.from_connector[0]).removeprefix(PREFACE)
    sent = {frame.payload for frame in frames_of(pinged) if frame.kind == 6}
    # A ping of the trainer's own has bytes that gRPC draws or counts; eight at most each.
    assert len([ping for ping in said.pings if ping not in sent]) <= 2 + len(said.messages)

    answers = [joined_exactly(messages) for messages in said.messages.values()]
    assert sorted(answers) == sorted(content for _, content in seen.asked)
    for request, content in seen.asked:
        check_answer(seen.hospital, manifest, request, content)
    return said


def joined_exactly(messages: list[bytes]) -> bytes:
    """Return an answer from its chunks, which are written in the one way."""
    chunks = [Chunk.FromString(message) for message in messages]
    for chunk, message in zip(chunks, messages, strict=True):
        kind = chunk.WhichOneof("part")
        plain = Chunk(**{kind: getattr(chunk, kind)})
        assert plain.SerializeToString() == message
    return joined(iter(chunks), most_mb=64)


def check_answer(hospital: Hospital, manifest: Manifest, request: Request, content: bytes) -> None:
    """An answer is what its statement says, written again to the same bytes, and may leave."""
    answer = hospital.opened(content, request)
    digest = message_digest(request)
    again = encode_signed_answer(answer, request_digest=digest, key=hospital.key)
    assert to_bytes(again) == content
    assert to_bytes(from_bytes(content)) == content
    if isinstance(answer, Refusal):
        refused = [r for r in hospital.records() if r["event"] == "request-refused"]
        assert answer.reason in [record["reason"] for record in refused]
        return
    limits = limits_of(
        manifest,
        request,
        site=hospital.settings.name,
        counts=COUNTS,
        policy=read_policy(hospital.home.policy_file),
    )
    assert reason_to_keep(request, answer, limits) is None


def opened_manifest(hospital: Hospital, signed: object) -> Manifest:
    del hospital
    return Manifest.model_validate_json(signed.manifest_json)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "protection",
    [
        (),
        ("privacy.enabled=true", "federation.aggregation=uniform-mean"),
        ("federation.update_precision=bfloat16",),
        ("federation.update_precision=int8",),
    ],
    ids=["plain", "noise", "bfloat16", "int8"],
)
def test_of_a_whole_run_every_byte_is_of_the_contract(
    short_path: Path,
    make_config: MakeConfig,
    trainer: CountingTrainer,
    protection: tuple[str, ...],
) -> None:
    config = make_config("federation.rounds=4", "train.epochs=1", *protection)
    hospital = make_hospital(short_path / "site", config=config)
    signed = hospital.approved()
    with watched(hospital, trainer) as seen:
        answers = [seen.ask(QueryRequest("run-1"), signed)]
        for number in (1, 2):
            answers.append(seen.ask(hospital.train_request(number), signed))
            answers.append(seen.ask(hospital.evaluate_request(number), signed))
        answers.append(seen.ask(hospital.train_request(2), signed))  # a repeat
        answers.append(seen.ask(hospital.train_request(1), signed))  # too late
        trainer.failure = ValueError("patient-17.png of Jane Doe is damaged")
        answers.append(seen.ask(hospital.train_request(3), signed))

        said = account_for(seen, opened_manifest(hospital, signed))

    assert [type(answer).__name__ for answer in answers] == [
        *("SiteCard", "Update", "Evaluation", "Update", "Evaluation", "Update"),
        *("Refusal", "Refusal"),
    ]
    everything = b"".join(itertools.chain.from_iterable(said.messages.values()))
    assert b"Jane" not in everything
    assert b"patient-17" not in everything


def test_of_a_run_under_masks_every_byte_is_of_the_contract(
    short_path: Path, make_config: MakeConfig, trainer: CountingTrainer, stack: ExitStack
) -> None:
    names = ("harbour", "island", "north", "valley")
    secure = (
        *("secure_aggregation.enabled=true", "privacy.enabled=true"),
        *("federation.aggregation=uniform-mean", "federation.rounds=4"),
    )
    hospitals = make_trial(short_path, config=make_config(*secure), names=names)
    signed = [hospital.approved() for hospital in hospitals.values()][-1]
    trainers = {name: CountingTrainer(replace(trainer.card, site=name)) for name in names}
    seen = stack.enter_context(watched(hospitals["north"], trainers["north"]))
    desks = {
        name: seen if name == "north" else hospitals[name].desk(trainers[name]) for name in names
    }
    coordinator = Coordinator(hospitals, desks, signed)  # type: ignore[arg-type]
    asked: list[Request] = []
    real_ask = coordinator.ask

    def ask(site: str, request: Request) -> Answer:
        if site == "north":
            asked.append(request)
            return seen.ask(request, signed)
        return real_ask(site, request)

    coordinator.ask = ask  # type: ignore[method-assign]
    coordinator.gather_keys()
    masked = {site: ask(site, coordinator.train_request(site, 1)) for site in names}
    assert all(isinstance(answer, MaskedUpdate) for answer in masked.values())
    shares = ask("north", coordinator.unmask_request(masked))  # type: ignore[arg-type]
    refused = ask("north", hospitals["north"].evaluate_request(1))
    plain = ask("north", hospitals["north"].train_request(2))

    said = account_for(seen, opened_manifest(hospitals["north"], signed))

    assert isinstance(shares, Shares)
    assert isinstance(refused, Refusal)
    assert isinstance(plain, Refusal)
    assert len(said.messages) == len(asked) == 6
    # Nothing of the update is in what left but under its mask.
    bare = trainers["north"].train(coordinator.train_request("north", 1))
    assert isinstance(bare, Update)
    everything = b"".join(itertools.chain.from_iterable(said.messages.values()))
    for array in bare.arrays.values():
        assert array.tobytes() not in everything


def test_the_trainers_report_of_itself_is_read_to_the_last_byte(
    hospital: Hospital, trainer: CountingTrainer
) -> None:
    with watched(hospital, trainer) as seen:
        report = seen.stub.report(5)
        seen.stub.close()
        seen.server.stop(grace_s=1.0)
        content = bytes(seen.relay.from_trainer[0])

    said = spoken(content)
    ((message,),) = said.messages.values()
    assert said.explained == len(content)
    assert ReportReply(json=report.model_dump_json()).SerializeToString() == message
    assert DeskReport.model_validate_json(report.model_dump_json()) == report


def test_one_byte_more_is_found() -> None:
    import struct

    plain = struct.pack(">HBBBI", 0, 7, 0, 1, 1) + b"\x00\x00\x00\x00\x02ab"
    assert spoken(plain).messages == {1: [b"ab"]}
    padded = struct.pack(">HBBBI", 0, 8, 0, 0x9, 1) + b"\x00\x00\x00\x00\x00\x02ab"
    longer = struct.pack(">HBBBI", 0, 8, 0, 1, 1) + b"\x00\x00\x00\x00\x02abc"
    unknown = struct.pack(">HBBBI", 0, 2, 11, 0, 0) + b"ab"

    for leak in (padded, longer, unknown, plain + b"a"):
        with pytest.raises((ValueError, struct.error)):
            spoken(leak)
