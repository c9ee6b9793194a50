"""Rounds that break off and go on from their checkpoint end with the bits of undisturbed ones."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from client.training.state import LocalState
from common.config.reading import config_digest
from common.messages.kinds import Refusal, TrainRequest, Update
from server.record.checkpoint import load_checkpoint
from server.rounds.rounds import Federation, run_rounds
from tests.server.rounds.small_runs import (
    TASKS,
    CrashError,
    CrashingProgress,
    GridOfSites,
    Score,
    SummingSite,
    federation,
    measured,
    run_config,
    run_whole,
    start,
)


class SiteWithItsOwnHead(SummingSite):
    """Keeps its head to itself; what it sends depends on all rounds that the head has seen."""

    folder = Path()

    def train(self, request: TrainRequest) -> Update | Refusal:
        answer = super().train(request)
        assert isinstance(answer, Update)
        own = LocalState(self.folder, site=self.name, run=request.run)
        head = f"heads.{TASKS[self.name]}.w"
        before = own.load(before=request.server_round).get(head, request.arrays[head])
        after = before / 2 + answer.arrays[head]
        own.save({head: after}, server_round=request.server_round)
        return self.update(request, {"trunk.w": answer.arrays["trunk.w"] + after})


class CoastComesInRoundTwo(GridOfSites):
    """Keeps back what coast says until north has trained once."""

    def __init__(self, sites: Sequence[SummingSite], *, mute: Sequence[str] = ()) -> None:
        super().__init__(sites, mute=mute)
        self._north, self._coast = sites[0], 100 + [site.name for site in sites].index("coast")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        known = ((i, self._replies[i]) for i in message_ids if i in self._replies)
        return super().pull_messages(
            [i for i, reply in known if self._north.requests or self._of(reply) != self._coast]
        )

    def _of(self, reply: Message) -> int:
        return reply.metadata.src_node_id


@dataclass(frozen=True)
class Mode:
    """A way to run rounds in which something outlasts a round."""

    overrides: tuple[str, ...]
    site: type[SummingSite] = SummingSite
    grid: type[GridOfSites] = GridOfSites
    scores: Callable[[int], float | None] = float
    ends_after: int = 4


NO_BETTER_AFTER_TWO = {0: 0.5, 1: 0.7, 2: 0.8, 3: 0.8, 4: None}.__getitem__
MODES = {
    "weighted mean": Mode(()),
    "adaptive steps": Mode(("federation.strategy=fedadam",)),
    "every other round measured": Mode(
        ("federation.rounds=5", "evaluation.every_rounds=2"), ends_after=5
    ),
    "early stop": Mode(
        ("federation.rounds=9", "federation.patience=2"), scores=NO_BETTER_AFTER_TWO
    ),
    "local heads": Mode(("federation.local_layers=[heads]",), site=SiteWithItsOwnHead),
    "a latecomer": Mode((), grid=CoastComesInRoundTwo),
}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_a_run_that_breaks_off_within_round_three_ends_with_the_bits_of_an_undisturbed_one(
    mode: Mode, tmp_path: Path
) -> None:
    config = run_config("federation.rounds=4", *mode.overrides)

    def made(name: str, sites: Sequence[SummingSite]) -> Federation[Score]:
        for site in sites:
            if isinstance(site, SiteWithItsOwnHead):
                site.folder = tmp_path / name / "sites"
        return federation(config, sites, tmp_path / name, scores=mode.scores, grid=mode.grid(sites))

    whole = made("whole", [mode.site(name) for name in TASKS])
    undisturbed = run_whole(whole, start(config))
    sites = [mode.site(name) for name in TASKS]
    broken = replace(made("broken", sites), progress=CrashingProgress())
    broken.progress.crash_in = 3
    with pytest.raises(CrashError):
        run_whole(broken, start(config))
    kept = load_checkpoint(broken.files.checkpoint, config_digest=config_digest(config))
    again = made("broken", sites)
    continued = run_rounds(again, kept, untrained=None).state

    assert kept.server_round == 2
    assert continued.server_round == undisturbed.server_round == mode.ends_after
    assert continued.participation == undisturbed.participation
    assert continued.progression == undisturbed.progression
    for name, array in undisturbed.model.items():
        assert continued.model[name].tobytes() == array.tobytes()
    assert measured(again)[mode.ends_after] == measured(whole)[mode.ends_after]
    coast = [reply.site for reply in undisturbed.participation[0].replies if reply.reason]
    assert coast == (["coast"] if mode.grid is CoastComesInRoundTwo else [])
    assert len(undisturbed.participation[1].answered()) == len(TASKS)


def test_the_layers_that_stay_at_the_sites_matter_to_what_they_send(tmp_path: Path) -> None:
    config = run_config("federation.rounds=2", "federation.local_layers=[heads]")
    models = []
    for forgets in (False, True):
        sites = [SiteWithItsOwnHead(name) for name in TASKS]
        for site in sites:
            site.folder = tmp_path / str(forgets) / "sites"
        made = federation(config, sites, tmp_path / str(forgets))
        first = run_whole(replace(made, config=run_config("federation.rounds=1")), start(config))
        if forgets:
            shutil.rmtree(tmp_path / "True" / "sites")
        models.append(run_rounds(made, first, untrained=None).state.model["trunk.w"])

    assert not np.array_equal(*models)
