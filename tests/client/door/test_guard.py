"""Only an answer to what was asked leaves, in the arrays that were agreed."""

from dataclasses import replace

import numpy as np
import pytest

from client.guard import reason_to_keep
from common.wire import EvaluateRequest, Evaluation, QueryRequest, SiteCard, TrainRequest, Update

ARRAYS = {"trunk.w": np.zeros((2, 3), dtype=np.float32), "heads.a": np.zeros(2, dtype=np.float32)}
TRAIN = TrainRequest("run-1", 2, 0, 20, 0.0, False, "{}", ARRAYS)
UPDATE = Update("run-1", 2, "north", "chestx", 14, 3, {"total": 0.5}, {}, ARRAYS)
EVALUATE = EvaluateRequest("run-1", 2, "{}", ARRAYS)
EVALUATION = Evaluation("run-1", 2, "north", "chestx", 4, {"auroc": 0.75})
CARD = SiteCard("north", "chestx", 14, 4, "{}")


def reason(request: object, answer: object) -> str | None:
    return reason_to_keep(
        request,  # type: ignore[arg-type]
        answer,  # type: ignore[arg-type]
        site="north",
        task="chestx",
        local_layers=("heads.b",),
    )


@pytest.mark.parametrize(
    ("request_", "answer"),
    [(TRAIN, UPDATE), (EVALUATE, EVALUATION), (QueryRequest("run-1"), CARD)],
)
def test_an_answer_to_what_was_asked_leaves(request_: object, answer: object) -> None:
    assert reason(request_, answer) is None


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (EVALUATION, "cannot be answered by"),
        (replace(UPDATE, site="harbour"), "another site's name"),
        (replace(UPDATE, task="retina"), "another task"),
        (replace(UPDATE, run="run-2"), "another run or round"),
        (replace(UPDATE, server_round=1), "another run or round"),
        (replace(UPDATE, evaluation={"auroc": 0.5}), "was not asked for"),
        (replace(UPDATE, arrays={"pictures": ARRAYS["trunk.w"]}), "pictures was not asked for"),
        (replace(UPDATE, arrays={"trunk.w": ARRAYS["heads.a"]}), "another shape"),
        (replace(UPDATE, arrays={"heads.a": ARRAYS["heads.a"] + np.nan}), "not finite"),
    ],
)
def test_anything_else_stays(answer: object, says: str) -> None:
    found = reason(TRAIN, answer)

    assert found is not None
    assert says in found


def test_a_layer_that_the_run_keeps_local_stays() -> None:
    arrays = {**ARRAYS, "heads.b": ARRAYS["heads.a"]}

    found = reason(replace(TRAIN, arrays=arrays), replace(UPDATE, arrays=arrays))

    assert found == "the array heads.b stays at the site"
