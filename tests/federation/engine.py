"""Flower's simulation engine without its processes: sites answer in turn, in this process.

What a run does and what its sites compute is what Flower's own engine would have them do; what
stays out is Ray, its processes and how messages become bytes. One whole run through the real
engine stays beside these (test_federation.py), and one by the command (test_bad_input.py).
"""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from flwr.app import Context, RecordDict
from flwr.serverapp import ServerApp

import client.app
from common.local_site import SITES_VARIABLE, read_sites, write_sites
from server.run import simulate
from tests.server.rounds.grid import GridInThisProcess


def _run_here(
    *, num_supernodes: int, client_app_attr: str, server_app: ServerApp, **_of_the_engine: object
) -> None:
    """Stand in for Flower's engine: run the ServerApp over sites of this process."""
    path = Path(os.environ[SITES_VARIABLE])
    # This process's log stays its own: it is the test's.
    write_sites(path, [site.model_copy(update={"log": None}) for site in read_sites(path)])
    module, name = client_app_attr.split(":")
    app = getattr(importlib.import_module(module), name)
    server_app(GridInThisProcess([app] * num_supernodes), Context(1, 1, {}, RecordDict(), {}))


@contextmanager
def engine_in_this_process() -> Iterator[None]:
    """Let ``simulate`` run its sites in this process until the block ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulate, "_start_ray", lambda *_: None)
        patch.setattr(simulate, "_run_simulation", _run_here)
        try:
            yield
        finally:
            client.app._sites.cache_clear()
            client.app._warm_site.cache_clear()
