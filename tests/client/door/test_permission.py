"""What a site gathers before it says yes: decisions, the budget after the round, pinned sites."""

import shutil

import pytest

from client.consent.policy import Policy, Standing
from client.consent.policy_file import read_policy
from client.desk.case import Case
from client.desk.permission import Permission
from client.desk.voice import Voice
from client.home.own_shard import ShardCounts
from client.records.accountant import epsilon
from client.records.audit import AuditLog
from client.records.ledger import Ledger, ledger_of
from client.records.spending import round_spending
from client.trust.peers import write_pins
from common.config.reading import canonical_json
from common.config.run import RunConfig
from common.errors import ConfigError, LedgerError
from common.messages.envelope import sign_request
from common.messages.kinds import QueryRequest
from common.messages.manifest import Manifest, ManifestSite
from common.messages.signing import PrivateKey
from hospital import Hospital

COUNTS = ShardCounts(
    training_pictures=14, validation_pictures=4, training_patients=14, validation_patients=4
)
PRIVATE = {"enabled": True, "noise_multiplier": 2.0, "sample_rate": 0.1, "steps_per_round": 10}


def with_wish(config: RunConfig, section: str, **wish: object) -> RunConfig:
    values = config.model_dump()
    values[section] |= wish
    return RunConfig.model_validate(values)


class Site:
    """A hospital that is asked for a round of a run."""

    def __init__(self, hospital: Hospital, config: RunConfig, **changes: object) -> None:
        self.hospital = hospital
        self.signed = hospital.approved(config=config, **changes)
        self.manifest = Manifest.model_validate_json(self.signed.manifest_json)
        audit = AuditLog(hospital.home.audit_log)
        voice = Voice(site="north", key=hospital.key, audit=audit, now=lambda: hospital.now)
        self.permission = Permission(hospital.home, voice=voice, now=lambda: hospital.now)

    @property
    def policy(self) -> Policy:
        return read_policy(self.hospital.home.policy_file)

    def case(self, *, is_query: bool = False) -> Case:
        text = canonical_json(self.manifest.config)
        train = self.hospital.train_request(config_json=text)
        request = QueryRequest("run-1") if is_query else train
        run_key = self.hospital.run_key
        signed = sign_request(request, site="north", manifest=self.signed, key=run_key)
        return Case(signed, signed.digest, 2**20)

    def standing(self, *, is_query: bool = False, spends: bool = True) -> Standing:
        case = self.case(is_query=is_query)
        return self.permission.standing(
            case, self.manifest, self.policy, COUNTS, rounds_trained=0, spends=spends
        )

    def objection(self) -> str | None:
        case, standing = self.case(), self.standing()
        no = self.permission.objection(case, self.manifest, self.policy, standing)
        return None if no is None else no.reason

    def spend_a_round(self) -> None:
        spending = round_spending(self.manifest.config)
        assert spending is not None
        Ledger(self.hospital.home.ledger).spend(
            spending, run="before", server_round=1, request_digest="", now=self.hospital.now
        )


@pytest.fixture
def private(hospital: Hospital) -> Site:
    config = with_wish(hospital.config, "federation", aggregation="uniform-mean")
    return Site(hospital, with_wish(config, "privacy", **PRIVATE))


def test_the_budget_is_asked_with_the_round_on_top_of_all_runs(private: Site) -> None:
    spending = round_spending(private.manifest.config)
    assert spending is not None

    alone = private.standing().epsilon_after
    private.spend_a_round()
    after = private.standing().epsilon_after

    assert alone == epsilon([spending], unit="patient", delta=1e-5)
    assert after == epsilon([spending] * 2, unit="patient", delta=1e-5)


def test_a_round_beyond_the_budget_is_refused_and_one_that_was_spent_for_is_not(
    private: Site,
) -> None:
    once = private.standing().epsilon_after
    assert once is not None
    rules = private.policy.privacy.model_dump()
    private.hospital.set_policy(privacy=rules | {"epsilon": once})

    assert private.objection() is None
    private.spend_a_round()
    assert "privacy budget would be exceeded" in str(private.objection())
    assert private.standing(spends=False).epsilon_after is None  # a repeat


def test_nothing_is_added_up_where_no_budget_is_touched(private: Site) -> None:
    rules = private.policy.privacy.model_dump()
    assert private.standing(is_query=True).epsilon_after is None
    private.hospital.set_policy(privacy=rules | {"epsilon": None})
    assert private.standing().epsilon_after is None
    private.hospital.set_policy(privacy=rules | {"min_noise_multiplier": 3.0})
    assert private.standing().epsilon_after is None
    assert "noise multiplier of at least 3" in str(private.objection())


def test_a_damaged_ledger_permits_nothing_with_or_without_noise(private: Site) -> None:
    private.spend_a_round()
    private.hospital.home.ledger.write_text("")
    plain = Site(private.hospital, private.hospital.config)
    for site in (private, plain):
        for is_query in (True, False):
            with pytest.raises(LedgerError, match="Nothing leaves this site"):
                site.standing(is_query=is_query)


def test_a_ledger_that_is_gone_permits_nothing(private: Site) -> None:
    home = private.hospital.home
    ledger_of(home).note_release(
        "update", run="before", server_round=1, request_digest="", now=private.hospital.now
    )
    shutil.rmtree(home.ledger.parent)

    with pytest.raises(LedgerError, match=r"has 0 records.* there were 1"):
        private.standing()


def test_sites_of_a_sum_are_looked_up_among_the_pinned(hospital: Hospital) -> None:
    others = {name: PrivateKey.new().public for name in ("south", "west")}
    keys = {"north": hospital.key.public, **others}
    sites = tuple(
        ManifestSite(name=name, task="chestx", signing_key=key.text) for name, key in keys.items()
    )
    config = with_wish(hospital.config, "secure_aggregation", enabled=True)
    site = Site(hospital, config, sites=sites)

    assert "site south, which nobody at this site has pinned" in str(site.objection())
    write_pins(hospital.home.peers, {name: key.fingerprint for name, key in others.items()})
    assert site.objection() is None
    hospital.home.peers.write_text("south: 7\n")
    with pytest.raises(ConfigError, match="expected a fingerprint"):
        site.standing()


def test_a_plain_run_asks_neither_budget_nor_pins(hospital: Hospital) -> None:
    hospital.home.peers.write_text("south: 7\n")
    plain = Site(hospital, hospital.config)

    assert plain.objection() is None
    assert (plain.standing().epsilon_after, plain.standing().pinned) == (None, {})
