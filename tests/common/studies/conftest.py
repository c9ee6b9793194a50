"""Epsilon is composed once for each training: its arithmetic takes a second."""

from functools import cache

import pytest

from common.studies import audit_canary
from common.studies.audit_bound import claimed_epsilon

_composed_once = cache(claimed_epsilon)


@pytest.fixture(autouse=True)
def _compose_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_canary, "claimed_epsilon", _composed_once)
