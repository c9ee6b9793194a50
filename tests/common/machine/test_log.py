import io
import json
import logging
from collections.abc import Iterator

import pytest

from common.machine.log import configure


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logger = logging.getLogger("server")
    before = (logger.handlers, logger.level, logger.propagate)
    yield stream
    for room in ("common", "client", "server"):
        logger = logging.getLogger(room)
        logger.handlers, logger.level, logger.propagate = before


def test_an_event_is_one_line_with_its_fields(stream: io.StringIO) -> None:
    configure(level=logging.INFO, as_json=False, stream=stream)

    logging.getLogger("server.rounds").info("round finished", extra={"action": "done", "round": 3})

    assert (
        stream.getvalue()
        .strip()
        .endswith("INFO    server.rounds round finished action=done round=3")
    )


def test_an_event_is_one_json_object(stream: io.StringIO) -> None:
    configure(level=logging.INFO, as_json=True, stream=stream)

    logging.getLogger("client.app").warning("refused", extra={"action": "refused", "site": "a"})

    event = json.loads(stream.getvalue())
    assert {key: event[key] for key in ("level", "logger", "message", "action", "site")} == {
        "level": "WARNING",
        "logger": "client.app",
        "message": "refused",
        "action": "refused",
        "site": "a",
    }


def test_events_below_the_level_are_left_out(stream: io.StringIO) -> None:
    configure(level=logging.WARNING, as_json=False, stream=stream)

    logging.getLogger("common.config.run").info("read")

    assert stream.getvalue() == ""
