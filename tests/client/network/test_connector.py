"""The connector against a real SuperLink on loopback: TLS, node authentication, real bundles.

The test itself plays the coordinator's app, through Flower's own interfaces for it; the trainer
is a real gRPC service whose desk gives the answer that a test wants.
"""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from flwr.app import MessageType
from flwr.superlink.grid.http_grid import HttpGrid

from client.network.trainer_line import TrainerLine
from common.errors import SiteError
from common.messages.kinds import QueryRequest, Refusal, RefusalCode, SiteCard, TrainRequest, Update
from common.messages.wire import decode_answer, decode_request, encode
from tests.client.network.connected_site import CARD, START_CONNECTOR, Site, refused_with, reported
from tests.client.network.superlink import (
    Coordinator,
    answer,
    ask,
    hostile_bundle,
    wait_until,
    write_certificates,
)


def test_request_reaches_the_trainer_and_its_answer_the_coordinator(
    run: HttpGrid, north: Site
) -> None:
    message = answer(run, ask(run, north.node_id, encode(QueryRequest(run="r"))))

    card = decode_answer(message.content, SiteCard)
    assert isinstance(card, SiteCard)
    assert (card.site, card.num_examples) == ("north", 3)
    assert message.metadata.src_node_id == north.node_id
    assert [decode_request(asked, QueryRequest).run for asked in north.desk.asked] == ["r"]


def test_arrays_of_many_chunks_arrive_bit_for_bit_both_ways(run: HttpGrid, north: Site) -> None:
    arrays = {"trunk.weight": np.random.default_rng(0).random((3, 2**20), dtype=np.float32)}
    north.desk.reply = lambda content: encode(
        Update(
            run="r",
            server_round=1,
            site="north",
            task="chestx",
            num_examples=3,
            num_steps=1,
            metrics={},
            evaluation={},
            arrays={"trunk.weight": -decode_request(content, TrainRequest).arrays["trunk.weight"]},
        )
    )

    request = TrainRequest(
        run="r",
        server_round=1,
        global_step=0,
        total_steps=1,
        proximal_mu=0,
        evaluates=False,
        config_json="{}",
        arrays=arrays,
    )
    message_id = ask(run, north.node_id, encode(request), MessageType.TRAIN)
    update = decode_answer(answer(run, message_id).content, Update)

    assert isinstance(update, Update)
    np.testing.assert_array_equal(update.arrays["trunk.weight"], -arrays["trunk.weight"])
    wait_until(lambda: reported(north).rounds == 1, seconds=5, what="the report")
    assert reported(north).bytes_in > 12 * 2**20


def test_run_that_brings_code_is_refused_and_its_code_is_never_imported(
    coordinator: Coordinator, north: Site, tmp_path: Path
) -> None:
    marker = tmp_path / "code-was-run"
    hostile = coordinator.launch(hostile_bundle(marker))

    message = answer(hostile, ask(hostile, north.node_id, encode(QueryRequest(run="r"))))

    refusal = decode_answer(message.content, SiteCard)
    assert isinstance(refusal, Refusal)
    assert (refusal.site, refusal.code) == ("north", RefusalCode.UNTRUSTED)
    assert "evil.py" in refusal.reason
    assert north.desk.asked == []
    assert not marker.exists()
    assert reported(north).refused_bundles == 1


def test_killed_connector_finishes_the_message_that_it_had_in_work(
    run: HttpGrid, connected: Site
) -> None:
    never = threading.Event()
    connected.desk.reply = lambda _content: (never.wait(60), encode(CARD))[1]
    message_id = ask(run, connected.node_id, encode(QueryRequest(run="r")))
    wait_until(lambda: bool(connected.desk.asked), seconds=10, what="the request")
    connected.end(signal.SIGKILL)
    connected.desk.reply = lambda _content: encode(CARD)

    connected.start()
    card = decode_answer(answer(run, message_id, seconds=20).content, SiteCard)
    never.set()

    assert isinstance(card, SiteCard)
    assert len(connected.desk.asked) == 2


def test_sigterm_takes_the_site_offline_in_order(coordinator: Coordinator, connected: Site) -> None:
    assert connected.end(signal.SIGTERM) == 0

    assert reported(connected).state == "stopped"
    connected.start()  # Flower refuses this for a minute when the node did not say goodbye
    wait_until(connected.is_connected, seconds=15, what="the second connection")
    assert "still counts as open" not in connected.log()


def test_sigterm_does_not_wait_for_a_trainer_that_works(run: HttpGrid, connected: Site) -> None:
    never = threading.Event()
    connected.desk.reply = lambda _content: (never.wait(60), encode(CARD))[1]
    ask(run, connected.node_id, encode(QueryRequest(run="r")))
    wait_until(lambda: bool(connected.desk.asked), seconds=10, what="the request")

    started = time.monotonic()
    code = connected.end(signal.SIGTERM)
    never.set()

    assert code == 0
    assert time.monotonic() - started < 10


def test_site_that_was_not_admitted_waits_and_says_so(coordinator: Coordinator, site: Site) -> None:
    coordinator.unregister(site.node_id)
    site.start()

    wait_until(lambda: refused_with(site, "not admitted"), seconds=20, what="the refusal")

    assert site.process is not None
    assert site.process.poll() is None


def test_site_that_is_retired_while_connected_goes_offline_and_says_so(
    coordinator: Coordinator, connected: Site
) -> None:
    coordinator.unregister(connected.node_id)

    wait_until(lambda: refused_with(connected, "retired"), seconds=20, what="the refusal")

    assert reported(connected).connected_since is None


def test_certificates_that_end_soon_are_warned_of(north: Site) -> None:
    report = reported(north)

    assert report.certificate_expires is not None
    assert report.authority_expires is not None
    assert north.log().count("expires in 19 days") == 2


def test_server_of_another_authority_is_not_believed(
    coordinator: Coordinator, site: Site, tmp_path: Path
) -> None:
    write_certificates(tmp_path, days=1)
    site.home.certificate_authority.write_bytes((tmp_path / "ca.crt").read_bytes())
    site.start()

    wait_until(lambda: refused_with(site, "certificate is not trusted"), seconds=20, what="it")


def test_second_connector_of_a_site_does_not_start(north: Site) -> None:
    second = subprocess.run(
        [sys.executable, "-c", START_CONNECTOR, str(north.home.root)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert second.returncode == 1
    assert "another connector of this site runs" in second.stderr


def test_connector_never_imports_torch(north: Site) -> None:
    assert north.process is not None
    mapped = {Path(part.path).name for part in psutil.Process(north.process.pid).memory_maps()}
    assert not any("torch" in name for name in mapped)
    assert any("grpc" in name or "cygrpc" in name for name in mapped)


def test_trainer_that_is_away_is_waited_for_before_it_is_given_up(tmp_path: Path) -> None:
    line = TrainerLine(tmp_path / "nobody.sock", threading.Event(), patience_s=1.0)
    started = time.monotonic()

    with pytest.raises(SiteError, match="not running"):
        line.ask(b"", expires_at=time.time() + 60)

    assert 1.0 <= time.monotonic() - started < 10


def test_request_during_which_the_trainer_died_is_asked_again_when_it_is_back(
    run: HttpGrid, north: Site
) -> None:
    never = threading.Event()
    north.desk.reply = lambda _content: (never.wait(60), encode(CARD))[1]
    message_id = ask(run, north.node_id, encode(QueryRequest(run="r")))
    wait_until(lambda: bool(north.desk.asked), seconds=10, what="the request")

    assert north.server is not None
    north.server.stop(grace_s=0)
    north.desk.reply = lambda _content: encode(CARD)
    north.serve()
    card = decode_answer(answer(run, message_id).content, SiteCard)
    never.set()

    assert isinstance(card, SiteCard)
    assert len(north.desk.asked) == 2
