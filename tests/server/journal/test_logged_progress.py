"""What the log says of a run that nobody watches."""

import logging

import pytest

from server.exchange.participation import Outcome, Reply
from server.journal.logged_progress import LoggedProgress, log_preparation


def test_a_site_without_an_update_is_a_warning_with_its_reason(
    caplog: pytest.LogCaptureFixture,
) -> None:
    replies = [Reply("north", Outcome.ANSWERED, ""), Reply("valley", Outcome.REFUSED, "not today")]

    with caplog.at_level(logging.INFO, logger="server"):
        LoggedProgress().round_finished(3, replies=replies)

    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == (
        "WARNING",
        "site brought nothing: not today",
    )
    assert (record.__dict__["site"], record.__dict__["outcome"]) == ("valley", "refused")


def test_reading_pictures_is_one_event_per_shard(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="server"):
        for done in (1, 2, 3):
            log_preparation("reference-chestx", done, 3)

    assert [record.__dict__["pictures"] for record in caplog.records] == [3]
