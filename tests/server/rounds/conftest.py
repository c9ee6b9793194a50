"""Sites that every test of rounds may ask for."""

import pytest

from tests.server.rounds.small_runs import TASKS, SummingSite


@pytest.fixture
def everyone() -> list[SummingSite]:
    return [SummingSite(name) for name in TASKS]
