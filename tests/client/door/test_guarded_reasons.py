"""What a trainer says leaves only in Fovea's words, whatever the trainer writes."""

import logging
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.guard.reasons import UNKNOWN_REASON, told_of
from client.training import trainer
from common.messages.kinds import (
    EvaluateRequest,
    Evaluation,
    Refusal,
    RefusalCode,
    TrainRequest,
    Update,
)
from common.tasks import TASKS
from hospital import CountingTrainer, Hospital

ARRAYS = ("trunk.weight", "heads.chestx.bias")
PATIENT = "patient Erika Mustermann, born 1964-08-12, has a nodule"
SAID_AS_THEY_ARE = (
    *(f"the run has no task {name}" for name in TASKS),
    "its shard was prepared for another task or other labels",
    "its pictures are 128 px wide, the run's are not",
    "no training pictures",
    "no val pictures",
    "the arrays are not this network's: trunk.weight differs",
    "private training uses one process, this site 4: set machine.processes to 1 in site.yaml",
)
MAY_BE_TOLD = (
    *SAID_AS_THEY_ARE,
    UNKNOWN_REASON,
    "the arrays are not this network's: heads.chestx.bias differs",
    "the arrays are not this network's: its own log says more",
    "non-finite: the loss was not finite",
    *(f"non-finite: {name} after training" for name in ARRAYS),
)


@pytest.mark.parametrize("reason", SAID_AS_THEY_ARE)
def test_what_the_trainer_says_of_a_site_or_its_setup_is_told_as_it_is(reason: str) -> None:
    told = told_of(reason, arrays=ARRAYS)

    assert (told.reason, told.depends_on_pictures) == (reason, False)


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (
            "non-finite: the loss was not finite at step 17",
            "non-finite: the loss was not finite",
        ),
        (
            "non-finite: trunk.weight after training",
            "non-finite: trunk.weight after training",
        ),
        ("non-finite: Erika after training", UNKNOWN_REASON),
        (PATIENT, UNKNOWN_REASON),
        ("", UNKNOWN_REASON),
    ],
)
def test_what_a_training_came_to_is_told_without_its_numbers_and_is_final(
    reason: str, told: str
) -> None:
    found = told_of(reason, arrays=ARRAYS)

    assert (found.reason, found.depends_on_pictures) == (told, True)


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        ("private training: stem.1 is a BatchNorm2d, which uses statistics", "choose an encoder"),
        (
            "private training: privacy.unit is patient, but 3 of 14 pictures of part train have no "
            "patient in their table",
            "cannot be protected by patient",
        ),
        ("the arrays are not this network's: trunk.other differs", "its own log says more"),
    ],
)
def test_what_the_network_or_the_table_lacks_is_told_without_their_names(
    reason: str, says: str
) -> None:
    told = told_of(reason, arrays=ARRAYS)

    assert says in told.reason
    assert not told.depends_on_pictures
    assert not {"stem", "BatchNorm2d", "3", "14", "trunk.other"} & set(
        re.findall(r"[\w.]+", told.reason)
    )


texts = st.text(max_size=60)


@given(
    st.one_of(
        texts,
        st.builds(str.__add__, st.sampled_from(MAY_BE_TOLD), texts),
        st.builds(str.__add__, texts, st.sampled_from(MAY_BE_TOLD)),
        st.builds("the arrays are not this network's: {} differs".format, texts),
        st.builds("the run has no task {}".format, texts),
        st.builds("non-finite: {} after training".format, texts),
        st.builds("non-finite: the loss was not finite at step {}".format, texts),
        st.builds("no {} pictures".format, texts),
    )
)
def test_of_arbitrary_text_nothing_is_told(text: str) -> None:
    told = told_of(text, arrays=ARRAYS).reason

    assert told in MAY_BE_TOLD
    assert told != text or text in MAY_BE_TOLD


@given(texts)
def test_of_arbitrary_text_after_a_known_word_nothing_is_told(text: str) -> None:
    told = told_of(f"private training: {text}", arrays=ARRAYS)

    assert told in (
        told_of("private training: ", arrays=ARRAYS),
        told_of("private training: privacy.unit is patient", arrays=ARRAYS),
    )


def test_the_forms_are_those_that_the_trainer_writes() -> None:
    with open(trainer.__file__) as file:
        source = file.read()
    for words in (
        "the run has no task {",
        "its shard was prepared for another task or other labels",
        "its pictures are {",
        " px wide, the run's are not",
        "no training pictures",
        "no {part} pictures",
        "the arrays are not this network's: {differing[0]} differs",
        "private training uses one process, this site {",
        "machine.processes to 1 in site.yaml",
        "non-finite: {",
        " after training",
        "private training: {",
    ):
        assert words in source, words


# --- across a desk -------------------------------------------------------------------------


class Unable(CountingTrainer):
    """Says no, in a test's words."""

    reason = PATIENT

    def train(self, request: TrainRequest) -> Update | Refusal:
        super().train(request)
        return Refusal("north", RefusalCode.UNABLE, self.reason)

    def evaluate(self, request: EvaluateRequest) -> Evaluation | Refusal:
        super().evaluate(request)
        return Refusal("north", RefusalCode.UNABLE, self.reason)


@pytest.mark.parametrize("is_training", [True, False])
def test_free_text_of_a_trainer_stays_in_the_sites_own_log(
    hospital: Hospital,
    trainer: CountingTrainer,
    caplog: pytest.LogCaptureFixture,
    is_training: bool,
) -> None:
    request = hospital.train_request() if is_training else hospital.evaluate_request(1)

    with caplog.at_level(logging.WARNING):
        answer = hospital.asked(hospital.desk(Unable(trainer.card)), request, hospital.approved())

    assert isinstance(answer, Refusal)
    assert answer.reason == UNKNOWN_REASON
    assert "Erika" not in hospital.home.audit_log.read_text()
    assert [getattr(r, "reason", "") for r in caplog.records].count(PATIENT) == 1
