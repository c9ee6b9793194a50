"""Rounds only go up, repeats get what was stored, and no model is measured twice."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from client.desk.answers import (
    KEPT_AFTER_EXPIRY,
    MAX_RUNS,
    Answers,
    Asked,
    Kind,
    Late,
    New,
    Repeat,
    place_of,
)
from common.errors import DataError

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
EXPIRES = NOW + timedelta(days=7)


def asked(
    kind: Kind, server_round: int, *, digest: str | None = None, evaluates: bool = True
) -> Asked:
    return Asked(kind, server_round, digest or f"{kind} {server_round}", evaluates)


@pytest.fixture
def answers(tmp_path: Path) -> Answers:
    return Answers(tmp_path / "answers")


def store(answers: Answers, *requests: Asked, run: str = "run-1", now: datetime = NOW) -> None:
    for request in requests:
        content = f"answer to {request.request_digest}".encode()
        answers.store(request, content, run=run, expires_at=EXPIRES, now=now)


@pytest.mark.parametrize(
    ("request_", "place"),
    [
        (asked("train", 3), Repeat()),
        (asked("train", 4), New(may_evaluate=True)),
        (asked("train", 9), New(may_evaluate=True)),
        (asked("evaluate", 3), New(may_evaluate=True)),
        (asked("evaluate", 4), New(may_evaluate=True)),
        (asked("train", 3, digest="another"), Late),
        (asked("train", 2), Late),
        (asked("evaluate", 2), Late),
    ],
)
def test_after_round_three_only_what_comes_later_is_new(
    answers: Answers, request_: Asked, place: object
) -> None:
    store(answers, asked("train", 1), asked("train", 3))

    found = place_of(request_, answers.record_of("run-1"))

    assert type(found) is place if isinstance(place, type) else found == place


@pytest.mark.parametrize(
    ("request_", "place"),
    [
        (asked("evaluate", 3), Repeat()),
        (asked("train", 3), Repeat()),
        (asked("evaluate", 3, digest="another"), Late),
        (asked("evaluate", 2), Late),
        # The model that comes with round 4 is the one that was measured: train, do not measure.
        (asked("train", 4), New(may_evaluate=False)),
        (asked("train", 4, evaluates=False), New(may_evaluate=True)),
        (asked("train", 5), New(may_evaluate=True)),
    ],
)
def test_after_an_evaluation_the_same_model_is_not_measured_again(
    answers: Answers, request_: Asked, place: object
) -> None:
    store(answers, asked("train", 3), asked("evaluate", 3))

    found = place_of(request_, answers.record_of("run-1"))

    assert type(found) is place if isinstance(place, type) else found == place


def test_a_model_that_came_with_a_training_is_not_measured_again(answers: Answers) -> None:
    store(answers, asked("train", 3))  # measured the model of round 2

    record = answers.record_of("run-1")

    assert record is not None
    assert record.measured_round == 2
    assert isinstance(place_of(asked("evaluate", 2), record), Late)


def test_a_round_that_was_only_measured_is_over_for_training(answers: Answers) -> None:
    store(answers, asked("evaluate", 2))

    record = answers.record_of("run-1")

    assert isinstance(place_of(asked("train", 2), record), Late)
    assert isinstance(place_of(asked("train", 3), record), New)


def test_stored_answers_come_back_byte_for_byte_after_a_restart(answers: Answers) -> None:
    store(answers, asked("train", 1), asked("train", 2), asked("evaluate", 2))

    again = Answers(answers._folder)

    assert again.stored(asked("train", 2), run="run-1") == (b"answer to train 2", ())
    assert again.stored(asked("evaluate", 2), run="run-1") == (b"answer to evaluate 2", ())
    record = again.record_of("run-1")
    assert record is not None
    assert record.rounds_trained == 2


def test_what_a_masked_answer_tells_is_remembered_beside_it(answers: Answers) -> None:
    request = asked("train", 1)
    answers.store(request, b"m", run="run-1", expires_at=EXPIRES, now=NOW, tells=("evaluation",))

    assert answers.stored(request, run="run-1") == (b"m", ("evaluation",))


def test_the_file_is_its_owners_alone_and_no_other_lies_beside_it(answers: Answers) -> None:
    store(answers, asked("train", 1), asked("train", 2))

    (path,) = answers._folder.iterdir()
    assert path.name == "run-1.answers"
    assert path.stat().st_mode & 0o777 == 0o600


def test_runs_know_nothing_of_each_other(answers: Answers) -> None:
    store(answers, asked("train", 5), run="run-1")

    assert answers.record_of("run-2") is None


def test_answers_go_when_a_run_expires_and_its_order_later(answers: Answers) -> None:
    store(answers, asked("train", 5))

    answers.prune(EXPIRES)
    record = answers.record_of("run-1")
    assert isinstance(place_of(asked("train", 5), record), Late)
    assert isinstance(place_of(asked("train", 4), record), Late)
    answers.prune(EXPIRES + KEPT_AFTER_EXPIRY)

    assert answers.record_of("run-1") is None


def test_of_many_runs_the_latest_keep_their_answers_and_all_their_order(answers: Answers) -> None:
    runs = [f"run-{number}" for number in range(MAX_RUNS + 2)]
    for number, run in enumerate(runs):
        store(answers, asked("train", 1), run=run, now=NOW + timedelta(minutes=number))

    places = [place_of(asked("train", 1), answers.record_of(run)) for run in runs]

    assert [type(place) for place in places] == [Late] * 2 + [Repeat] * MAX_RUNS


def test_a_damaged_file_is_said_and_holds_up_no_other_run(answers: Answers) -> None:
    store(answers, asked("train", 1), run="run-1")
    path = answers._folder / "run-1.answers"
    path.write_bytes(path.read_bytes()[:60])

    store(answers, asked("train", 1), run="run-2")

    with pytest.raises(DataError, match="damaged"):
        answers.record_of("run-1")
    assert [record.run for record in answers.runs()] == ["run-2"]


def test_a_stored_answer_that_was_altered_is_not_sent(answers: Answers) -> None:
    store(answers, asked("train", 1))
    path = answers._folder / "run-1.answers"
    path.write_bytes(path.read_bytes().replace(b"answer to", b"Answer to"))

    with pytest.raises(DataError, match="damaged"):
        answers.stored(asked("train", 1), run="run-1")


@pytest.mark.parametrize("run", ["../run", "a/b", "", "Run"])
def test_a_runs_name_leads_nowhere_else_on_the_disk(answers: Answers, run: str) -> None:
    with pytest.raises(DataError, match="cannot name a file"):
        answers.record_of(run)


def test_a_manifest_that_ends_earlier_does_not_shorten_a_runs_order(answers: Answers) -> None:
    store(answers, asked("train", 1))
    earlier = NOW + timedelta(hours=1)
    answers.store(asked("train", 2), b"two", run="run-1", expires_at=earlier, now=NOW)

    answers.prune(earlier + KEPT_AFTER_EXPIRY)

    assert isinstance(place_of(asked("train", 1), answers.record_of("run-1")), Late)
