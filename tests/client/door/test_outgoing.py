"""What leaves is in the ledger before, whatever breaks in between; and in as few bits as agreed."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import client.desk.outgoing
from client.consent.ledger_standing import privacy_standing
from client.desk.answers import Answers
from client.desk.voice import Voice
from client.records.audit import AuditLog
from client.records.ledger import Ledger
from client.training.state import LocalState
from common.config.run import RunConfig
from common.datasets.card import card_from_dict
from common.errors import LedgerError
from common.messages.kinds import (
    Evaluation,
    QueryRequest,
    Refusal,
    RefusalCode,
    SiteCard,
    TrainRequest,
    Update,
)
from common.messages.precision import rounded
from hospital import CountingTrainer, Hospital, make_hospital

NOISE = (
    *("privacy.enabled=true", "privacy.sample_rate=0.1", "privacy.noise_multiplier=2.0"),
    "federation.aggregation=uniform-mean",
)


class PowerCutError(BaseException):
    pass


@pytest.fixture
def private(short_path: Path, make_config: Callable[..., RunConfig]) -> Hospital:
    """A hospital in a run whose updates carry noise."""
    config = make_config("federation.rounds=4", "train.epochs=1", *NOISE)
    return make_hospital(short_path / "site", config=config)


def entries(hospital: Hospital, kind: str) -> list[tuple[str, int]]:
    ledger = Ledger(hospital.home.ledger)
    return [(each.what, each.server_round) for each in ledger.entries() if each.kind == kind]


def a_round(hospital: Hospital, trainer: CountingTrainer, number: int = 1) -> Update:
    request = hospital.train_request(number)
    answer = hospital.asked(hospital.desk(trainer), request, hospital.approved())
    assert isinstance(answer, Update)
    return answer


def test_a_round_with_noise_is_spent_and_tells_what_was_spent(
    private: Hospital, trainer: CountingTrainer
) -> None:
    manifest, desk = private.approved(), private.desk(trainer)
    updates = [private.asked(desk, private.train_request(number), manifest) for number in (1, 2)]

    first, second = (dict(update.metrics) for update in updates)  # type: ignore[union-attr]
    privacy = private.config.privacy
    ledger = Ledger(private.home.ledger)
    assert entries(private, "spending") == [("update", 1), ("update", 2)]
    assert second["epsilon"] == ledger.epsilon(unit=privacy.unit, delta=privacy.delta)
    assert 0 < first["epsilon"] < second["epsilon"] == second["epsilon_run"]
    told = [record for record in private.records() if record["event"] == "budget-spent"]
    assert [(r["ledger_seq"], r["steps"], r["epsilon"]) for r in told] == [
        (entry.seq, privacy.steps_per_round, metrics["epsilon"])
        for entry, metrics in zip(
            [each for each in ledger.entries() if each.spending], (first, second), strict=True
        )
    ]


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_round_starts_from_local_layers_whose_noise_is_in_the_ledger(
    private: Hospital,
    trainer: CountingTrainer,
    monkeypatch: pytest.MonkeyPatch,
    is_broken: bool,
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise LedgerError("no disk")

    manifest, request = private.approved(), private.train_request()
    layers = LocalState(
        private.home.layers, site=private.settings.name, run=request.run, kind="noised"
    )
    layers.hold({"head": np.ones(2, np.float32)}, server_round=1)
    if is_broken:
        monkeypatch.setattr(Ledger, "spend", fails)

    answer = private.asked(private.desk(trainer), request, manifest)

    assert isinstance(answer, Refusal if is_broken else Update)
    assert bool(layers.load(before=2)) is not is_broken


def test_what_an_earlier_run_has_spent_counts_too(
    private: Hospital, trainer: CountingTrainer
) -> None:
    a_round(private, trainer)
    other = private.approved(run="run-2")
    request = private.train_request(run="run-2")

    update = private.asked(private.desk(trainer), request, other)

    assert isinstance(update, Update)
    assert update.metrics["epsilon"] > update.metrics["epsilon_run"] > 0


def test_metrics_without_noise_are_noted_beside_what_was_spent(
    private: Hospital, trainer: CountingTrainer
) -> None:
    a_round(private, trainer)

    assert entries(private, "release") == [
        ("number of pictures", 0),
        ("training metrics", 1),
        ("evaluation", 1),
    ]


def test_the_number_of_pictures_is_noted_once_per_run_whatever_carries_noise(
    private: Hospital, trainer: CountingTrainer
) -> None:
    for number in (1, 2):
        a_round(private, trainer, number)

    assert entries(private, "release").count(("number of pictures", 0)) == 1


@pytest.mark.parametrize(
    ("took", "told"), [(0.0, 10.0), (9.99, 10.0), (10.0, 10.0), (10.01, 20.0), (1234.5, 1240.0)]
)
def test_under_noise_a_round_took_whole_tens_of_seconds(
    private: Hospital, trainer: CountingTrainer, took: float, told: float
) -> None:
    fraught = Fraught(trainer.card)
    fraught.changes = {"metrics": {"seconds": took}}  # type: ignore[attr-defined]

    assert a_round(private, fraught).metrics["seconds"] == told


def test_without_noise_the_seconds_are_as_they_were(
    hospital: Hospital, trainer: CountingTrainer
) -> None:
    fraught = Fraught(trainer.card)
    fraught.changes = {"metrics": {"seconds": 1234.5}}  # type: ignore[attr-defined]

    assert a_round(hospital, fraught).metrics["seconds"] == 1234.5


def test_epsilon_leaves_no_more_than_other_metrics_where_the_policy_keeps_them(
    private: Hospital, trainer: CountingTrainer
) -> None:
    private.set_policy(release__metrics=False)

    update = a_round(private, trainer)

    assert (dict(update.metrics), dict(update.evaluation)) == ({}, {})
    assert entries(private, "spending") == [("update", 1)]
    assert entries(private, "release") == [("number of pictures", 0)]


def test_everything_that_leaves_without_noise_is_in_the_ledger_once(
    hospital: Hospital, trainer: CountingTrainer
) -> None:
    manifest, desk = hospital.approved(), hospital.desk(trainer)
    for _ in range(2):
        assert isinstance(hospital.asked(desk, QueryRequest("run-1"), manifest), SiteCard)
    for _ in range(2):
        assert isinstance(hospital.asked(desk, hospital.train_request(), manifest), Update)
    request = hospital.evaluate_request(1)
    assert isinstance(hospital.asked(desk, request, manifest), Evaluation)

    assert entries(hospital, "spending") == []
    assert entries(hospital, "release") == [
        ("data card", 0),
        ("update", 1),
        ("training metrics", 1),
        ("evaluation", 1),  # of the model that round 1 came with
        ("evaluation", 1),  # of the one that it made
    ]


def test_a_data_card_that_changed_is_another_release(
    hospital: Hospital, trainer: CountingTrainer
) -> None:
    manifest = hospital.approved()
    content = json.loads(trainer.card.data_card_json) | {"exclusions": {"no label": 19}}
    other = replace(trainer.card, data_card_json=card_from_dict(content).as_json())

    for card in (trainer.card, other, other):
        desk = hospital.desk(CountingTrainer(card))
        assert isinstance(hospital.asked(desk, QueryRequest("run-1"), manifest), SiteCard)

    assert entries(hospital, "release") == [("data card", 0)] * 2


def test_a_repeat_of_what_was_stored_spends_nothing(
    private: Hospital, trainer: CountingTrainer
) -> None:
    first, again = a_round(private, trainer), a_round(private, trainer)

    assert first.metrics == again.metrics
    assert entries(private, "spending") == [("update", 1)]


def test_a_repeat_is_sent_although_the_budget_is_spent(
    private: Hospital, trainer: CountingTrainer
) -> None:
    spent = a_round(private, trainer).metrics["epsilon"]
    private.set_policy(privacy__epsilon=spent * 1.01)
    manifest, request = private.approved(), private.train_request(2)

    assert a_round(private, trainer).metrics["epsilon"] == spent
    beyond = private.asked(private.desk(trainer), request, manifest)

    assert isinstance(beyond, Refusal)
    assert beyond.code is RefusalCode.FORBIDDEN
    assert "privacy budget" in beyond.reason
    assert len(trainer.trained) == 1


def cut(*_: object, **__: object) -> None:
    raise PowerCutError


def cut_after(real: Callable[..., object]) -> Callable[..., object]:
    def call(*arguments: object, **named: object) -> object:
        real(*arguments, **named)
        raise PowerCutError

    return call


@dataclass(frozen=True)
class Cut:
    """A power cut right before or after something is done."""

    where: object
    what: str
    after: bool
    spendings: int  # once the round was asked for again

    def __str__(self) -> str:
        return f"{'after' if self.after else 'before'} {self.what}"


CUTS = [
    Cut(Ledger, "spend", after=False, spendings=1),
    Cut(Ledger, "spend", after=True, spendings=2),
    Cut(client.desk.outgoing, "reason_against_update", after=False, spendings=2),
    Cut(Voice, "sign", after=False, spendings=2),
    Cut(Answers, "store", after=False, spendings=2),
    Cut(Answers, "store", after=True, spendings=1),
    Cut(Voice, "release", after=False, spendings=1),
    Cut(Voice, "release", after=True, spendings=1),
]


@pytest.mark.parametrize("power_cut", CUTS, ids=str)
def test_a_crash_at_any_step_never_leaves_less_in_the_ledger_than_what_left(
    private: Hospital,
    trainer: CountingTrainer,
    monkeypatch: pytest.MonkeyPatch,
    power_cut: Cut,
) -> None:
    content = private.sealed(private.train_request(), private.approved())
    real = getattr(power_cut.where, power_cut.what)
    with monkeypatch.context() as patched:
        patched.setattr(
            power_cut.where, power_cut.what, cut_after(real) if power_cut.after else cut
        )
        with pytest.raises(PowerCutError):
            private.desk(trainer).answer(content, is_wanted=lambda: True)
    stored = (private.home.answers / "run-1.answers").exists()
    assert len(entries(private, "spending")) >= stored

    update = a_round(private, trainer)

    assert entries(private, "spending") == [("update", 1)] * power_cut.spendings
    privacy = private.config.privacy
    spent = Ledger(private.home.ledger).epsilon(unit=privacy.unit, delta=privacy.delta)
    assert update.metrics["epsilon"] == spent


def test_nothing_leaves_when_the_ledger_cannot_be_written(
    private: Hospital, trainer: CountingTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Ledger, "spend", full)

    answer = private.asked(private.desk(trainer), private.train_request(), private.approved())

    assert isinstance(answer, Refusal)
    assert answer.code is RefusalCode.UNAVAILABLE
    assert "answer-released" not in private.events()


def test_nothing_leaves_when_the_ledger_was_shortened(
    private: Hospital, trainer: CountingTrainer
) -> None:
    a_round(private, trainer)
    private.home.ledger.write_text("")

    request = private.train_request(2)
    answer = private.asked(private.desk(trainer), request, private.approved())

    assert isinstance(answer, Refusal)
    assert answer.code is RefusalCode.UNAVAILABLE
    assert "ledger" in answer.reason


def test_nothing_leaves_when_the_ledger_is_gone_with_all_of_its_folder(
    private: Hospital, trainer: CountingTrainer
) -> None:
    a_round(private, trainer)
    shutil.rmtree(private.home.ledger.parent)

    request = private.train_request(2)
    answer = private.asked(private.desk(trainer), request, private.approved())

    assert isinstance(answer, Refusal)
    assert answer.code is RefusalCode.UNAVAILABLE
    assert len(trainer.trained) == 1
    with pytest.raises(LedgerError, match="Nothing leaves this site"):
        privacy_standing(private.home)


def test_an_audit_log_that_cannot_be_written_keeps_the_answer_back(
    private: Hospital, trainer: CountingTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = AuditLog.append

    def full(log: AuditLog, event: str, *arguments: object, **fields: object) -> None:
        if event == "budget-spent":
            raise OSError(28, "No space left on device")
        real(log, event, *arguments, **fields)  # type: ignore[arg-type]

    monkeypatch.setattr(AuditLog, "append", full)

    answer = private.asked(private.desk(trainer), private.train_request(), private.approved())

    assert isinstance(answer, Refusal)
    assert entries(private, "spending") == [("update", 1)]


# --- what the guard and the policy say of it -----------------------------------------------


class Fraught(CountingTrainer):
    """Returns whatever a test wants in its updates."""

    def train(self, request: TrainRequest) -> Update | Refusal:
        update = super().train(request)
        assert isinstance(update, Update)
        return replace(update, **self.changes)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"metrics": {"jane_doe": 1.0}}, "not on the list"),
        ({"evaluation": {"jane_doe": 1.0}}, "not on the list"),
        ({"num_examples": 15}, "number of pictures"),
        ({"arrays": {"pictures": np.zeros(3, np.float32)}}, "was not asked for"),
    ],
)
def test_what_the_trainer_must_not_return_does_not_leave(
    hospital: Hospital, trainer: CountingTrainer, changes: dict[str, object], says: str
) -> None:
    fraught = Fraught(trainer.card)
    fraught.changes = changes  # type: ignore[attr-defined]

    answer = hospital.asked(hospital.desk(fraught), hospital.train_request(), hospital.approved())

    assert isinstance(answer, Refusal)
    assert says in answer.reason
    assert "jane" not in str(hospital.records())


def test_an_update_beyond_the_policys_norm_stays(
    hospital: Hospital, trainer: CountingTrainer
) -> None:
    hospital.set_policy(bounds__max_update_norm=1.0)  # the update's is 0.5 * sqrt(10)

    answer = hospital.asked(hospital.desk(trainer), hospital.train_request(), hospital.approved())

    assert isinstance(answer, Refusal)
    assert answer.reason == "the update's norm is larger than its policy allows (1)"


def test_an_answer_beyond_the_policys_size_stays(
    hospital: Hospital, trainer: CountingTrainer
) -> None:
    hospital.set_policy(bounds__max_answer_mb=0.0001)
    desk, manifest = hospital.desk(trainer), hospital.approved()

    for request in (QueryRequest("run-1"), hospital.train_request()):
        answer = hospital.asked(desk, request, manifest)

        assert isinstance(answer, Refusal)
        assert "an answer at most 0.0001 MB" in answer.reason
    assert "answer-released" not in hospital.events()


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_an_update_leaves_rounded_to_the_runs_precision(
    short_path: Path,
    make_config: Callable[..., RunConfig],
    trainer: CountingTrainer,
    precision: str,
) -> None:
    config = make_config("federation.rounds=4", f"federation.update_precision={precision}")
    hospital = make_hospital(short_path / "site", config=config)
    exact = np.linspace(-1.0, 1.0, 6, dtype=np.float32).reshape(2, 3)
    hospital.arrays = {"trunk.weight": exact}
    fraught = Fraught(trainer.card)
    fraught.changes = {"arrays": {"trunk.weight": exact}}  # type: ignore[attr-defined]

    answer = hospital.asked(hospital.desk(fraught), hospital.train_request(), hospital.approved())

    assert isinstance(answer, Update)
    assert answer.precision == precision
    expected = rounded({"trunk.weight": exact}, precision)  # type: ignore[arg-type]
    assert np.array_equal(answer.arrays["trunk.weight"], expected["trunk.weight"])
    assert not np.array_equal(answer.arrays["trunk.weight"], exact)


def test_the_audit_log_says_in_how_many_bits_an_update_left(
    hospital: Hospital, trainer: CountingTrainer
) -> None:
    hospital.asked(hospital.desk(trainer), hospital.train_request(), hospital.approved())

    released = hospital.records()[-1]
    assert (released["event"], released["precision"]) == ("answer-released", "float32")


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_an_update_that_is_not_finite_stays_at_every_precision(
    short_path: Path,
    make_config: Callable[..., RunConfig],
    trainer: CountingTrainer,
    precision: str,
) -> None:
    config = make_config("federation.rounds=4", f"federation.update_precision={precision}")
    hospital = make_hospital(short_path / "site", config=config)
    fraught = Fraught(trainer.card)
    broken = {name: array + np.float32(np.nan) for name, array in hospital.arrays.items()}
    fraught.changes = {"arrays": broken}  # type: ignore[attr-defined]

    answer = hospital.asked(hospital.desk(fraught), hospital.train_request(), hospital.approved())

    assert isinstance(answer, Refusal)
    assert (answer.code, "is not finite" in answer.reason) == (RefusalCode.UNABLE, True)
