"""A simulated site goes a hospital's way: object, train, spend, mask."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from client.records.ledger import Ledger
from client.simulated_site import LEDGER_FILE, SimulatedSite
from client.training.state import LocalState
from common.config.reading import canonical_json
from common.config.run import RunConfig
from common.errors import ConfigError, LedgerError, WireError
from common.local_site import LocalSite
from common.messages.digests import text_digest
from common.messages.kinds import (
    EvaluateRequest,
    Evaluation,
    Keys,
    KeysRequest,
    MaskedUpdate,
    Refusal,
    RefusalCode,
    SiteCard,
    TrainRequest,
    Update,
)
from common.messages.signing import PrivateKey
from common.secure_sum.context import round_context
from common.secure_sum.statements import (
    Bundle,
    MaskedNote,
    MemberKey,
    MemberList,
    RoundOpening,
    as_text,
    parsed,
)

MakeConfig = Callable[..., RunConfig]
NAMES = ("north", "harbour", "moor")
MASKED = ("secure_aggregation.enabled=true",)
PRIVATE = (
    *("privacy.enabled=true", "privacy.unit=image"),
    "federation.aggregation=uniform-mean",
)


class CountingTrainer:
    """Trains in no time and counts how often."""

    def __init__(self, site: str) -> None:
        self.site, self.rounds = site, 0
        self.metrics, self.evaluation = {"seconds": 1.0}, dict[str, float]()

    def describe(self) -> SiteCard:
        return SiteCard(self.site, "chestx", 20, 4, "{}")

    def train(self, request: TrainRequest) -> Update | Refusal:
        self.rounds += 1
        change = {name: np.full_like(array, 0.5) for name, array in request.arrays.items()}
        return Update(
            request.run,
            request.server_round,
            self.site,
            "chestx",
            20,
            3,
            self.metrics,
            self.evaluation,
            change,
        )

    def evaluate(self, request: EvaluateRequest) -> Evaluation | Refusal:
        return Evaluation(request.run, request.server_round, self.site, "chestx", 4, {"auroc": 0.5})


class Hospital:
    """One simulated site with its trainer in sight."""

    def __init__(self, site: LocalSite) -> None:
        self.trainer = CountingTrainer(site.name)
        self.site = SimulatedSite(site, self.trainer, now=lambda: datetime(2030, 1, 1, tzinfo=UTC))
        self.state = site.state
        self.ledger = Ledger(site.state / site.name / LEDGER_FILE)


@pytest.fixture
def hospitals(tmp_path: Path) -> dict[str, Hospital]:
    keys = {name: PrivateKey.new() for name in NAMES}
    public = tuple((name, key.public.text) for name, key in keys.items())
    made = {}
    for name, key in keys.items():
        path = tmp_path / f"{name}.key"
        key.write(path)
        made[name] = Hospital(
            LocalSite(
                name=name, task="chestx", shard=tmp_path, state=tmp_path / "sites", num_threads=1,
                signing_key=path, site_keys=public,
            )
        )  # fmt: skip
    return made


def three_sites(make_config: MakeConfig, *overrides: str) -> str:
    config = make_config(*overrides)
    sites = tuple(
        config.sites[0].model_copy(update={"name": name, "task": "chestx"}) for name in NAMES
    )
    return canonical_json(config.model_copy(update={"sites": sites}))


def a_request(config_json: str, *, run: str = "run-1", secure_json: str = "{}") -> TrainRequest:
    arrays = {"trunk.w": np.zeros((4, 3), np.float32), "heads.chestx.w": np.zeros(3, np.float32)}
    return TrainRequest(run, 1, 0, 9, 0.0, False, config_json, arrays, secure_json)


def opened(hospitals: dict[str, Hospital], config_json: str) -> RoundOpening:
    """Gather the keys of a round as a coordinator does, and return what north gets."""

    def ask(server_round: int, keys_json: str) -> dict[str, str]:
        request = KeysRequest("run-1", server_round, config_json, keys_json)
        answers = {name: each.site.keys(request) for name, each in sorted(hospitals.items())}
        return {name: a.keys_json for name, a in answers.items() if isinstance(a, Keys)}

    members = tuple(parsed(text, MemberKey) for text in ask(0, "{}").values())
    bundles = {
        name: parsed(text, Bundle)
        for name, text in ask(1, as_text(MemberList(members=members))).items()
    }
    request = a_request(config_json)
    return RoundOpening(
        context=round_context(
            request.arrays,
            run_digest=text_digest(config_json),
            server_round=request.server_round,
            evaluates=request.evaluates,
            proximal_mu=request.proximal_mu,
        ),
        members=members,
        keys=tuple(bundle.key for bundle in bundles.values()),
        shares={name: b.shares["north"] for name, b in bundles.items() if name != "north"},
    )


def test_an_update_in_the_open_leaves_as_it_is_and_is_noted(
    hospitals: dict[str, Hospital], make_config: MakeConfig
) -> None:
    north = hospitals["north"]

    update = north.site.train(a_request(three_sites(make_config)))

    assert isinstance(update, Update)
    assert update.metrics == {"seconds": 1.0}
    (entry,) = north.ledger.entries()
    assert (entry.kind, entry.what, entry.run) == ("release", "update", "run-1")


def test_noise_is_spent_before_an_update_leaves_and_said_with_it(
    hospitals: dict[str, Hospital], make_config: MakeConfig
) -> None:
    north, config_json = hospitals["north"], three_sites(make_config, *PRIVATE)

    layers = LocalState(north.state, site="north", run="run-1", kind="noised")
    layers.hold({"head": np.ones(2, np.float32)}, server_round=1)

    first = north.site.train(a_request(config_json))
    second = north.site.train(a_request(config_json, run="run-2"))

    assert layers.load(before=2)  # counted, so it may be trained on

    assert isinstance(first, Update)
    assert isinstance(second, Update)
    assert [entry.what for entry in north.ledger.entries()] == [
        *("number of pictures", "update") * 2
    ]
    assert first.metrics["seconds"] == 10.0
    assert 0 < first.metrics["epsilon"] == first.metrics["epsilon_run"]
    assert second.metrics["epsilon"] > second.metrics["epsilon_run"] == first.metrics["epsilon"]


def test_what_leaves_without_noise_is_noted_as_at_a_desk(
    hospitals: dict[str, Hospital], make_config: MakeConfig
) -> None:
    north, config_json = hospitals["north"], three_sites(make_config)
    north.trainer.metrics, north.trainer.evaluation = {"total": 0.5}, {"auroc": 0.75}

    for _ in range(2):
        north.site.describe()
        north.site.train(a_request(config_json))
        north.site.evaluate(EvaluateRequest("run-1", 1, config_json, {}))

    assert [(entry.what, entry.server_round) for entry in north.ledger.entries()] == [
        ("data card", 0),
        ("update", 1),
        ("training metrics", 1),
        ("evaluation", 1),
        ("evaluation", 1),
    ]


def test_a_masked_update_without_noise_is_noted_as_one(
    hospitals: dict[str, Hospital], make_config: MakeConfig
) -> None:
    north, config_json = hospitals["north"], three_sites(make_config, *MASKED)
    request = a_request(config_json, secure_json=as_text(opened(hospitals, config_json)))

    assert isinstance(north.site.train(request), MaskedUpdate)

    assert [entry.what for entry in north.ledger.entries()] == ["masked update"]


def test_in_a_masked_run_nothing_of_one_site_leaves_in_the_open(
    hospitals: dict[str, Hospital], make_config: MakeConfig
) -> None:
    north, config_json = hospitals["north"], three_sites(make_config, *MASKED)

    update = north.site.train(a_request(config_json))
    evaluation = north.site.evaluate(EvaluateRequest("run-1", 1, config_json, {}))

    for answer in (update, evaluation):
        assert isinstance(answer, Refusal)
        assert answer.code is RefusalCode.FORBIDDEN
    assert north.trainer.rounds == 0
    in_the_open = a_request(three_sites(make_config), secure_json='{"keys":[]}')
    assert isinstance(north.site.train(in_the_open), Refusal)


def test_an_update_is_masked_once_and_says_what_was_spent(
    hospitals: dict[str, Hospital], make_config: MakeConfig
) -> None:
    north, config_json = hospitals["north"], three_sites(make_config, *MASKED, *PRIVATE)
    request = a_request(config_json, secure_json=as_text(opened(hospitals, config_json)))

    masked, again = north.site.train(request), north.site.train(request)

    assert isinstance(masked, MaskedUpdate)
    assert set(masked.masked) == {"trunk", "chestx"}
    (entry,) = north.ledger.entries()
    note = parsed(masked.secure_json, MaskedNote)
    assert note.epsilon == north.ledger.epsilon(unit="image", delta=1e-5)
    assert entry.spending is not None
    # A second update under the same masks would show the difference of the two.
    assert isinstance(again, Refusal)
    assert north.trainer.rounds == 1


def test_a_round_with_a_key_that_its_site_did_not_sign_is_refused_before_training(
    hospitals: dict[str, Hospital], make_config: MakeConfig
) -> None:
    north, config_json = hospitals["north"], three_sites(make_config, *MASKED)
    good = opened(hospitals, config_json)
    forged = tuple(
        key.model_copy(update={"mask_key": "A" * 43 + "="}) if key.site == "moor" else key
        for key in good.keys
    )
    request = a_request(config_json, secure_json=as_text(good.model_copy(update={"keys": forged})))

    answer = north.site.train(request)

    assert isinstance(answer, Refusal)
    assert "moor" in answer.reason
    assert north.trainer.rounds == 0


def test_a_site_without_a_key_cannot_take_part_in_a_sum(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    site = LocalSite(name="north", task="chestx", shard=tmp_path, state=tmp_path, num_threads=1)

    with pytest.raises(ConfigError, match="north has no signing key"):
        Hospital(site).site.keys(KeysRequest("run-1", 0, three_sites(make_config, *MASKED), "{}"))


def test_a_configuration_that_cannot_be_read_is_named(hospitals: dict[str, Hospital]) -> None:
    with pytest.raises(WireError, match="Both ends must run the same Fovea version"):
        hospitals["north"].site.train(replace(a_request("{}"), run="run-1"))


def test_nothing_leaves_where_the_ledger_cannot_be_written(
    hospitals: dict[str, Hospital], make_config: MakeConfig
) -> None:
    north, config_json = hospitals["north"], three_sites(make_config)
    north.state.mkdir()
    (north.state / "north").write_text("a file where the site's folder should be")

    for ask in (
        north.site.describe,
        lambda: north.site.train(a_request(config_json)),
        lambda: north.site.train(a_request(three_sites(make_config, *PRIVATE))),
        lambda: north.site.evaluate(EvaluateRequest("run-1", 1, config_json, {})),
    ):
        with pytest.raises(LedgerError, match=r"ledger\.jsonl cannot be written \(\w+Error\)"):
            ask()
