"""A round is asked once: what was refused for what the pictures gave is its answer."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from client.desk.answers import Answers
from common.config.run import RunConfig
from common.messages.kinds import (
    EvaluateRequest,
    Evaluation,
    Refusal,
    RefusalCode,
    TrainRequest,
    Update,
)
from hospital import CountingTrainer, Hospital, make_hospital

LARGER = "the update's norm is larger than its policy allows (1)"


class Fraught(CountingTrainer):
    """Returns what must not leave."""

    def evaluate(self, request: EvaluateRequest) -> Evaluation | Refusal:
        evaluation = super().evaluate(request)
        assert isinstance(evaluation, Evaluation)
        return replace(evaluation, metrics={"auroc": float("nan")})


class Unable(CountingTrainer):
    """Says no once it has trained."""

    reason = "non-finite: the loss was not finite at step 2"

    def train(self, request: TrainRequest) -> Update | Refusal:
        super().train(request)
        return Refusal("north", RefusalCode.UNABLE, self.reason)


def refusal(hospital: Hospital, trainer: CountingTrainer, request: TrainRequest) -> Refusal:
    answer = hospital.asked(hospital.desk(trainer), request, hospital.approved())
    assert isinstance(answer, Refusal), answer
    return answer


def test_an_update_that_stays_cannot_be_asked_for_with_other_models(
    hospital: Hospital, trainer: CountingTrainer
) -> None:
    hospital.set_policy(bounds__max_update_norm=1.0)  # the update's is 0.5 * sqrt(10)
    models = [
        {name: np.full_like(array, size) for name, array in hospital.arrays.items()}
        for size in (1, 2, 3)
    ]

    first, *others = (
        refusal(hospital, trainer, hospital.train_request(arrays=model)) for model in models
    )

    assert (first.code, first.reason) == (RefusalCode.UNABLE, LARGER)
    assert {other.code for other in others} == {RefusalCode.OUT_OF_ORDER}
    assert {other.reason for other in others} == {"it has answered another request for round 1"}
    assert len(trainer.trained) == 1


def test_a_repeat_gets_the_same_refusal_without_training_or_spending_again(
    short_path: Path, make_config: Callable[..., RunConfig], trainer: CountingTrainer
) -> None:
    private = ("privacy.enabled=true", "federation.aggregation=uniform-mean")
    hospital = make_hospital(short_path / "site", config=make_config(*private))
    hospital.set_policy(bounds__max_update_norm=1.0)
    content = hospital.sealed(hospital.train_request(), hospital.approved())

    told = [hospital.desk(trainer).answer(content, is_wanted=lambda: True) for _ in range(2)]

    assert told[0] == told[1]
    assert len(trainer.trained) == 1
    assert hospital.events() == [
        *("request-received", "request-permitted", "budget-spent", "request-refused"),
        *("request-received", "request-refused"),
    ]


def test_the_next_round_is_another_question(hospital: Hospital, trainer: CountingTrainer) -> None:
    hospital.set_policy(bounds__max_update_norm=1.0)
    refusal(hospital, trainer, hospital.train_request(1))

    assert refusal(hospital, trainer, hospital.train_request(2)).reason == LARGER
    assert len(trainer.trained) == 2


def test_a_round_that_was_refused_counts_as_trained(
    hospital: Hospital, trainer: CountingTrainer
) -> None:
    hospital.set_policy(bounds__max_update_norm=1.0)
    refusal(hospital, trainer, hospital.train_request(1))

    record = Answers(hospital.home.answers).record_of("run-1")

    assert record is not None
    assert (record.rounds_trained, record.measured_round) == (1, 0)


def test_a_training_that_broke_off_is_the_rounds_answer_too(
    hospital: Hospital, trainer: CountingTrainer
) -> None:
    unable = Unable(trainer.card)

    first = refusal(hospital, unable, hospital.train_request())
    again = refusal(hospital, unable, hospital.train_request())
    other = refusal(hospital, unable, hospital.train_request(proximal_mu=1.0))

    assert first.reason == again.reason == "non-finite: the loss was not finite"
    assert other.code is RefusalCode.OUT_OF_ORDER
    assert len(unable.trained) == 1


def test_what_the_site_is_not_set_up_for_may_be_asked_again(
    hospital: Hospital, trainer: CountingTrainer
) -> None:
    unable = Unable(trainer.card)
    unable.reason = "no training pictures"

    assert refusal(hospital, unable, hospital.train_request()).reason == "no training pictures"
    answer = hospital.asked(hospital.desk(trainer), hospital.train_request(), hospital.approved())

    assert isinstance(answer, Update)


def test_a_measurement_that_stays_is_the_answer_for_its_model(
    hospital: Hospital, trainer: CountingTrainer
) -> None:
    fraught, manifest = Fraught(trainer.card), hospital.approved()
    request = hospital.evaluate_request(1)
    other = replace(request, arrays={name: array + 1 for name, array in request.arrays.items()})

    answers = [
        hospital.asked(hospital.desk(fraught), each, manifest) for each in (request, request, other)
    ]

    assert [answer.reason for answer in answers if isinstance(answer, Refusal)] == [
        *("the metric auroc is not one finite number",) * 2,
        "it has answered another request for round 1",
    ]
    assert len(fraught.evaluated) == 1
