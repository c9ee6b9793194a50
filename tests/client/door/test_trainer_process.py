"""The trainer as a process: killed, started again, asked to stop, with real training."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client.door.service import TrainerStub
from client.records.audit import verify
from common.config.run import RunConfig
from common.messages.digests import architecture_digest
from common.messages.kinds import Update
from common.model.arrays import array_names, read_arrays
from common.model.layers import held_by
from common.model.network import build_network
from hospital import Hospital, make_hospital, wait_until

START = """
import logging, sys
from pathlib import Path
from client.home.folders import SiteHome
from client.operations.trainer_process import run_trainer
from common.machine.log import configure
configure(level=logging.INFO, as_json=True, stream=sys.stderr)
run_trainer(SiteHome(Path(sys.argv[1])))
"""

StartTrainer = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def real(short_path: Path, door_config: RunConfig, shards: dict[str, Path]) -> Hospital:
    """A hospital with a prepared shard, and the run's real network."""
    from datetime import UTC, datetime

    made = make_hospital(short_path / "site", config=door_config)
    made.home.shard.symlink_to(shards["north"])
    network = build_network(door_config.model, door_config.task_table(), seed=door_config.seed)
    made.architecture = architecture_digest(read_arrays(network, array_names(network)))
    made.arrays = read_arrays(network, held_by("chestx", array_names(network)))
    made.now = datetime.now(UTC)
    return made


@pytest.fixture
def start(real: Hospital) -> Iterator[StartTrainer]:
    processes = []

    def start_one() -> "subprocess.Popen[bytes]":
        with real.home.trainer_log.open("ab") as log:
            command = [sys.executable, "-c", START, str(real.home.root)]
            process = subprocess.Popen(command, stderr=log)
        processes.append(process)
        return process

    yield start_one
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def stub(real: Hospital) -> Iterator[TrainerStub]:
    stub = TrainerStub(real.home.socket, request_mb=64)
    yield stub
    stub.close()


@pytest.mark.deployment
def test_a_killed_trainer_goes_on_where_it_was_and_a_stopped_one_finishes_first(
    real: Hospital, start: StartTrainer, stub: TrainerStub
) -> None:
    manifest = real.approved()
    first, second = (real.train_request(number, evaluates=False) for number in (1, 2))
    process = start()
    wait_until(lambda: stub.is_serving(1), seconds=60)
    answer = stub.ask(real.sealed(first, manifest), 60)

    rival = start()
    assert rival.wait(timeout=30) == 1
    assert "runs already" in real.home.trainer_log.read_text()

    process.kill()
    process.wait()
    assert real.home.socket.exists()
    process = start()
    wait_until(lambda: stub.is_serving(1), seconds=60)

    assert isinstance(real.opened(answer, first), Update)
    again = stub.ask(real.sealed(first, manifest), 60)
    assert again == answer, real.opened(again, first)

    call = stub._ask(iter_of(real.sealed(second, manifest)))
    wait_until(lambda: real.events().count("request-permitted") == 2, seconds=30)
    process.send_signal(signal.SIGTERM)
    content = b"".join(chunk.data for chunk in call)

    assert isinstance(real.opened(content, second), Update)
    assert process.wait(timeout=30) == 0
    assert not real.home.socket.exists()
    assert real.events()[-2:] == ["answer-released", "trainer-stopped"]
    assert real.records()[-1]["drained"] is True
    assert verify(real.home.audit_log).problems == ()
    assert real.events().count("trainer-started") == 2


def iter_of(content: bytes) -> Iterator[object]:
    from client.door.chunks import split

    return split(content)
