"""Which answers the coordinator takes for updates of its run."""

import numpy as np
import pytest

from common.messages.kinds import SiteCard, TrainRequest, Update
from common.messages.precision import PRECISIONS, Precision
from server.exchange.participation import Outcome
from server.exchange.replies import sort_out

ARRAYS = {"trunk.weight": np.zeros((2, 3), dtype=np.float32)}
REQUEST = TrainRequest("run", 1, 0, 10, 0.0, False, "{}", ARRAYS)
CARD = SiteCard("north", "chestx", 14, 4, "{}")


@pytest.mark.parametrize("sent", PRECISIONS)
@pytest.mark.parametrize("agreed", PRECISIONS)
def test_an_update_in_another_precision_than_the_runs_is_not_used(
    sent: Precision, agreed: Precision
) -> None:
    update = Update("run", 1, "north", "chestx", 14, 3, {}, {}, ARRAYS, sent)

    usable, (reply,) = sort_out(
        {"north": REQUEST},
        {"north": update},
        cards={"north": CARD},
        local_layers=(),
        precision=agreed,
    )

    assert (set(usable) == {"north"}) == (sent == agreed)
    expected = Outcome.ANSWERED if sent == agreed else Outcome.REJECTED
    assert reply.outcome is expected
    assert sent == agreed or reply.reason == f"it is in {sent}, the run's updates are in {agreed}"
