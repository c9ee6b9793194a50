"""A connector whose trainer, line or coordinator goes away, for seconds and for minutes."""

import time

import pytest
from flwr.superlink.grid.http_grid import HttpGrid

from common.messages.bundle import build_bundle
from common.messages.kinds import QueryRequest, Refusal, RefusalCode, SiteCard
from common.messages.wire import decode_answer, encode
from tests.client.network.connected_site import CARD, Cable, Site, reported
from tests.client.network.superlink import Coordinator, answer, ask, wait_until


@pytest.mark.deployment
def test_site_whose_trainer_stays_away_refuses_and_stays_connected(
    run: HttpGrid, connected: Site
) -> None:
    assert connected.server is not None
    connected.server.stop(grace_s=0)

    message_id = ask(run, connected.node_id, encode(QueryRequest(run="r")))
    refusal = decode_answer(answer(run, message_id, seconds=90).content, SiteCard)

    assert isinstance(refusal, Refusal)
    assert refusal.code == RefusalCode.UNAVAILABLE
    assert connected.is_connected()


@pytest.mark.deployment
def test_answer_that_was_ready_while_the_line_was_cut_for_seconds_is_sent_late(
    run: HttpGrid, site: Site, cable: Cable
) -> None:
    site.desk.reply = lambda _content: (cable.cut(), encode(CARD))[1]
    message_id = ask(run, site.node_id, encode(QueryRequest(run="r")))
    wait_until(lambda: bool(site.desk.asked), seconds=10, what="the request")
    time.sleep(15)

    cable.mend()
    card = decode_answer(answer(run, message_id, seconds=40).content, SiteCard)

    assert isinstance(card, SiteCard)
    assert len(site.desk.asked) == 1


@pytest.mark.deployment
def test_line_that_is_cut_for_minutes_is_taken_up_again_by_the_same_process(
    run: HttpGrid, site: Site, cable: Cable
) -> None:
    site.desk.reply = lambda _content: (cable.cut(), encode(CARD))[1]
    message_id = ask(run, site.node_id, encode(QueryRequest(run="r")))
    lost = answer(run, message_id, seconds=90)
    assert lost.has_error()  # a minute without a heartbeat: the coordinator is told
    assert "cannot be reached" in (reported(site).trouble or "")
    time.sleep(20)

    cable.mend()
    wait_until(lambda: reported(site).trouble is None, seconds=40, what="the line")
    site.desk.reply = lambda _content: encode(CARD)
    again = ask(run, site.node_id, encode(QueryRequest(run="r")))
    card = decode_answer(answer(run, again).content, SiteCard)

    assert isinstance(card, SiteCard)
    assert site.is_connected()  # the process that was started first


@pytest.mark.deployment
def test_heartbeats_go_on_while_the_trainer_works_for_longer_than_a_minute(
    run: HttpGrid, connected: Site
) -> None:
    connected.desk.reply = lambda _content: (time.sleep(100), encode(CARD))[1]

    message_id = ask(run, connected.node_id, encode(QueryRequest(run="r")))
    message = answer(run, message_id, seconds=120)

    assert not message.has_error()


@pytest.mark.deployment
def test_coordinator_that_is_killed_and_started_again_is_found_again(
    coordinator: Coordinator, north: Site
) -> None:
    assert coordinator.process is not None
    coordinator.process.kill()
    coordinator.process.wait()
    wait_until(lambda: reported(north).trouble is not None, seconds=10, what="the trouble")

    coordinator.start()
    wait_until(lambda: reported(north).trouble is None, seconds=40, what="the line")
    run = coordinator.launch(build_bundle())
    message_id = ask(run, north.node_id, encode(QueryRequest(run="r")))
    card = decode_answer(answer(run, message_id).content, SiteCard)

    assert isinstance(card, SiteCard)
    assert north.is_connected()
