"""A secure run of two tasks: every desk opens the sums of both heads, and so they can be opened."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from coordinator import Coordinator

from client.trust.peers import write_pins
from common.config.run import RunConfig
from common.datasets.card import card_from_dict
from common.messages.kinds import MaskedUpdate, Shares, SiteCard, TrainRequest, Update
from common.messages.signing import PrivateKey
from common.secure_sum.context import round_context
from common.secure_sum.layout import layouts
from common.secure_sum.statements import OpenedShares, as_text, parsed
from hospital import CountingTrainer, Hospital, make_hospital

TASKS = {
    **dict.fromkeys(("amber", "cedar", "ember"), "chestx"),
    **dict.fromkeys(("birch", "delta", "fjord"), "retina"),
}
STEPS = {"chestx": 0.25, "retina": 0.75}  # what every number of a site's update is


class OneStepTrainer(CountingTrainer):
    """Moves every number by its task's step."""

    def train(self, request: TrainRequest) -> Update:
        update = super().train(request)
        assert isinstance(update, Update)
        step = np.float32(STEPS[self.card.task])
        moved = {name: np.full_like(array, step) for name, array in request.arrays.items()}
        return replace(update, evaluation={}, arrays=moved)


class TwoTasks(Coordinator):
    """Opens a round of all sites with the arrays of both tasks."""

    def train_request(self, site: str, server_round: int) -> TrainRequest:
        request = super().train_request(site, server_round)
        context = round_context(
            {
                name: a
                for hospital in self.hospitals.values()
                for name, a in hospital.arrays.items()
            },
            run_digest=self.manifest.digest,
            server_round=server_round,
            evaluates=True,
            proximal_mu=0.0,
        )
        self.openings[site] = self.openings[site].model_copy(update={"context": context})
        return replace(request, secure_json=as_text(self.openings[site]))


def a_card(card: SiteCard, *, site: str, task: str) -> SiteCard:
    content = json.loads(card.data_card_json) | {"task": task}
    text = card_from_dict(content).as_json()
    return replace(card, site=site, task=task, data_card_json=text)


def hospitals_of(root: Path, config: RunConfig) -> dict[str, Hospital]:
    like = next(site for site in config.sites if site.name == "north")
    sites = tuple(
        like.model_copy(update={"name": name, "task": task}) for name, task in TASKS.items()
    )
    run_key = PrivateKey.new()
    made = {
        name: make_hospital(
            root / name,
            config=config.model_copy(update={"sites": sites}),
            name=name,
            run_key=run_key,
        )
        for name in TASKS
    }
    for name, hospital in made.items():
        hospital.settings = hospital.settings.model_copy(update={"task": TASKS[name]})
        hospital.arrays = {
            "trunk.weight": np.zeros(3, np.float32),
            f"heads.{TASKS[name]}.bias": np.zeros(2, np.float32),
        }
    entries = tuple(hospital.entry for hospital in made.values())
    for name, hospital in made.items():
        hospital.sites = entries
        others = {other: h.key.public.fingerprint for other, h in made.items() if other != name}
        write_pins(hospital.home.peers, others)
    return made


@pytest.fixture
def coordinator(
    short_path: Path, make_config: Callable[..., RunConfig], trainer: CountingTrainer
) -> Coordinator:
    config = make_config(
        "secure_aggregation.enabled=true", "federation.rounds=4", "federation.min_sites=3"
    )
    hospitals = hospitals_of(short_path, config)
    manifests = [hospital.approved() for hospital in hospitals.values()]
    desks = {
        name: hospital.desk(OneStepTrainer(a_card(trainer.card, site=name, task=TASKS[name])))
        for name, hospital in hospitals.items()
    }
    return TwoTasks(hospitals, desks, manifests[0])


def test_six_desks_of_two_tasks_open_a_trunk_and_two_heads(coordinator: Coordinator) -> None:
    coordinator.gather_keys()
    masked = {}
    for site in TASKS:
        answer = coordinator.ask(site, coordinator.train_request(site, 1))
        assert isinstance(answer, MaskedUpdate), answer
        masked[site] = answer
    request = coordinator.unmask_request(masked)

    shares = {}
    for site in TASKS:
        given = coordinator.ask(site, request)
        assert isinstance(given, Shares), given
        shares[site] = given

    groups = {
        group
        for each in shares.values()
        for seeds in parsed(each.shares_json, OpenedShares).self_seeds.values()
        for group in seeds
    }
    assert groups == {"trunk", "chestx", "retina"}
    sums = coordinator.opened(masked, shares)
    expected = {
        "trunk": {"trunk.weight": 0.5},
        **{task: {f"heads.{task}.bias": step} for task, step in STEPS.items()},
    }
    assert set(sums) == set(expected)
    for task, site in {"chestx": "amber", "retina": "birch"}.items():
        hospital = coordinator.hospitals[site]
        shapes = {name: array.shape for name, array in hospital.arrays.items()}
        placed = layouts(hospital.config, shapes, task=task)
        for group in ("trunk", task):
            found = placed[group].decode(sums[group]).mean()
            assert set(found) == set(expected[group])
            for name, array in found.items():
                np.testing.assert_allclose(array, expected[group][name], atol=1e-4)
