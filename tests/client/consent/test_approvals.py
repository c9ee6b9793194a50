"""Decisions on runs: they last, they are a person's, and the standing rule goes no further."""

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from client.consent.approvals import MAX_STANDING, MAX_WAITING, Approvals
from client.consent.kept_manifest import newly_seen
from client.consent.policy import Policy
from client.consent.policy_file import read_policy
from common.config.reading import load_config
from common.errors import ConfigError, SiteError, WireError
from common.messages.manifest import Manifest, ManifestSite, SignedManifest, sign_manifest
from common.messages.signing import PrivateKey

CONFIGS = Path(__file__).parents[3] / "configs"
BY_HAND = read_policy(CONFIGS / "policies" / "strict.yaml")
STANDING = read_policy(CONFIGS / "policies" / "standing.yaml")
NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)
KEY = PrivateKey.new()
DEMO = load_config(CONFIGS / "experiments" / "demo.yaml").run


def a_run(run: str = "demo-1", *overrides: str, **changes: object) -> SignedManifest:
    config = DEMO
    if overrides:
        config = load_config(CONFIGS / "experiments" / "demo.yaml", list(overrides)).run
    values: dict[str, object] = {
        "version": 1,
        "federation": "trial",
        "run": run,
        "sites": (ManifestSite(name="north", task="chestx", signing_key="key"),),
        "config": config,
        "architecture_digest": "0" * 64,
        "code_digest": "1" * 64,
        "issued_at": NOW,
        "expires_at": NOW + timedelta(days=7),
    }
    return sign_manifest(Manifest.model_validate(values | changes), KEY)


def opened(signed: SignedManifest) -> Manifest:
    return Manifest.model_validate_json(signed.manifest_json)


def decided(
    approvals: Approvals, signed: SignedManifest, policy: Policy = STANDING, now: datetime = NOW
) -> str:
    return approvals.decide(signed, opened(signed), policy, now=now)


def put(folder: Path, signed: SignedManifest, now: datetime, **values: object) -> None:
    """Write a file as the class does, without waiting for the disk."""
    kept = newly_seen(signed, opened(signed), now).model_copy(update=values)
    (folder / f"{signed.digest}.json").write_text(kept.model_dump_json())


@pytest.fixture
def approvals(tmp_path: Path) -> Approvals:
    return Approvals(tmp_path / "state" / "approvals")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "approvals"


def test_a_manifest_that_was_never_seen_waits(approvals: Approvals, folder: Path) -> None:
    assert approvals.standing_of("ab" * 32) == "waiting"
    assert (approvals.waiting(), approvals.last_approved(NOW)) == ([], None)
    assert not folder.exists()


def test_decisions_last_with_who_and_when(approvals: Approvals, folder: Path) -> None:
    signed = a_run()
    approvals.keep_waiting(signed, NOW)
    assert [kept.digest for kept in approvals.waiting()] == [signed.digest]

    approvals.approve(signed.digest, NOW + timedelta(hours=1), "anna")
    (kept,) = Approvals(folder).approved()
    assert (kept.state, kept.decided_by, kept.by_rule) == ("approved", "anna", False)
    assert (kept.first_seen, kept.decided_at) == (NOW, NOW + timedelta(hours=1))
    assert kept.signed == signed
    assert Approvals(folder).standing_of(signed.digest) == "approved"

    approvals.revoke("demo-1", NOW + timedelta(hours=2), "bert")
    (kept,) = Approvals(folder).revoked()
    assert (kept.state, kept.decided_by) == ("revoked", "bert")
    assert Approvals(folder).standing_of(signed.digest) == "revoked"


def test_files_are_the_owners_alone(approvals: Approvals, folder: Path) -> None:
    approvals.keep_waiting(a_run(), NOW)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to other users")
def test_what_root_writes_belongs_to_the_owner_of_the_folder() -> None:
    home = Path(tempfile.mkdtemp(dir="/tmp"))  # which others may reach, unlike pytest's
    os.chown(home, 12345, 12345)
    folder = home / "state" / "approvals"
    Approvals(folder).keep_waiting(a_run(), NOW)
    owners = {path.stat().st_uid for path in (folder.parent, folder, *folder.iterdir())}
    shutil.rmtree(home)
    assert owners == {12345}


def test_links_in_the_folder_are_not_followed(approvals: Approvals, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / ".lock").symlink_to(folder.parent / "made")
    with pytest.raises(OSError, match="symbolic links"):
        approvals.keep_waiting(a_run(), NOW)
    assert not (folder.parent / "made").exists()


def test_a_repeat_keeps_first_sight_and_decision(approvals: Approvals) -> None:
    signed = a_run()
    approvals.keep_waiting(signed, NOW)
    approvals.keep_waiting(signed, NOW + timedelta(hours=1))
    (kept,) = approvals.waiting()
    assert kept.first_seen == NOW
    approvals.approve(signed.digest, NOW, "anna")
    approvals.keep_waiting(signed, NOW)
    assert approvals.standing_of(signed.digest) == "approved"


def test_waiting_manifests_are_bounded_and_decisions_are_never_dropped(
    approvals: Approvals, folder: Path
) -> None:
    approved, revoked = a_run("approved"), a_run("revoked")
    for signed in (approved, revoked):
        approvals.keep_waiting(signed, NOW - timedelta(days=1))
    approvals.approve(approved.digest, NOW, "anna")
    approvals.revoke(revoked.digest, NOW, "anna")
    for number in range(MAX_WAITING):
        put(folder, a_run(f"flood-{number}"), NOW + timedelta(seconds=number))
    for number in range(MAX_WAITING, MAX_WAITING + 3):
        approvals.keep_waiting(a_run(f"flood-{number}"), NOW + timedelta(seconds=number))
    assert len(approvals.waiting()) == MAX_WAITING
    assert approvals.waiting()[0].run == "flood-3"
    assert approvals.standing_of(approved.digest) == "approved"
    assert approvals.standing_of(revoked.digest) == "revoked"
    assert len(list(folder.glob("*.json"))) == MAX_WAITING + 2


def test_a_person_may_approve_again_what_was_revoked(approvals: Approvals) -> None:
    signed = a_run()
    approvals.keep_waiting(signed, NOW)
    approvals.revoke(signed.digest, NOW, "anna")
    approvals.approve(signed.digest, NOW, "anna")
    assert approvals.standing_of(signed.digest) == "approved"


def test_revoking_a_run_revokes_every_manifest_of_that_name(approvals: Approvals) -> None:
    first, second, other = a_run(), a_run("demo-1", "seed=7"), a_run("demo-2")
    for signed in (first, second, other):
        approvals.keep_waiting(signed, NOW)
    revoked = approvals.revoke("demo-1", NOW, "anna")
    assert {kept.digest for kept in revoked} == {first.digest, second.digest}
    assert approvals.standing_of(other.digest) == "waiting"


def test_eight_characters_of_a_digest_are_enough(approvals: Approvals) -> None:
    signed = a_run()
    approvals.keep_waiting(signed, NOW)
    for text in (signed.digest[:8], signed.digest[:20], signed.digest, "demo-1"):
        assert [kept.digest for kept in approvals.find(text)] == [signed.digest]
    for text in (signed.digest[:7], "demo", "deadbeef", signed.digest[:8].upper() + "X", "../x"):
        with pytest.raises(ConfigError, match="knows no such run"):
            approvals.find(text)


def test_a_run_that_is_called_like_a_digest_cannot_be_taken_for_it(approvals: Approvals) -> None:
    signed = a_run()
    impostor = a_run(signed.digest[:8])
    approvals.keep_waiting(signed, NOW)
    approvals.keep_waiting(impostor, NOW)
    with pytest.raises(ConfigError, match="stands for several"):
        approvals.find(signed.digest[:8])
    with pytest.raises(ConfigError, match="stands for several"):
        approvals.revoke(signed.digest[:8], NOW, "anna")
    assert [kept.run for kept in approvals.find(signed.digest)] == ["demo-1"]


def test_only_what_the_site_has_received_can_be_approved(approvals: Approvals) -> None:
    with pytest.raises(ConfigError, match="has not received"):
        approvals.approve("ab" * 32, NOW, "anna")
    with pytest.raises(ConfigError, match="64 characters of a digest"):
        approvals.approve("../../etc/passwd", NOW, "anna")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def _forge(path: Path) -> None:
    values = json.loads(path.read_text())
    values["manifest_json"] = values["manifest_json"].replace('"rounds":7', '"rounds":9')
    path.write_text(json.dumps(values))


@pytest.mark.parametrize("damage", [_cut, _forge])
def test_a_damaged_file_is_named_and_approves_nothing(
    approvals: Approvals, folder: Path, damage: Callable[[Path], None]
) -> None:
    signed = a_run()
    approvals.keep_waiting(signed, NOW)
    approvals.approve(signed.digest, NOW, "anna")
    damage(folder / f"{signed.digest}.json")
    with pytest.raises(SiteError, match=f"{signed.digest}.json: is damaged. Move it away"):
        approvals.standing_of(signed.digest)


def test_a_file_that_cannot_be_read_is_named(approvals: Approvals, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / f"{'ab' * 32}.json").mkdir()
    with pytest.raises(SiteError, match="cannot be read"):
        approvals.standing_of("ab" * 32)


def test_a_manifest_of_another_version_is_listed_but_not_opened(
    approvals: Approvals, folder: Path
) -> None:
    old = SignedManifest('{"version":0}', "signature")
    approvals.keep_waiting(a_run(), NOW)
    (path,) = folder.glob("*.json")
    values = json.loads(path.read_text()) | {"manifest_json": old.manifest_json}
    (folder / f"{old.digest}.json").write_text(json.dumps(values))
    path.unlink()
    approvals.approve(old.digest, NOW, "anna")
    (kept,) = approvals.approved()
    with pytest.raises(WireError, match="of another version of Fovea"):
        kept.manifest()
    assert decided(approvals, a_run("demo-2")) == "waiting"


def test_trainer_and_person_at_the_same_time_lose_nothing(folder: Path) -> None:
    runs = [a_run(f"demo-{number}") for number in range(20)]
    Approvals(folder).keep_waiting(runs[0], NOW)

    def keep() -> None:
        for signed in runs:
            Approvals(folder).keep_waiting(signed, NOW)

    threads = [threading.Thread(target=keep) for _ in range(3)]
    for thread in threads:
        thread.start()
    Approvals(folder).approve(runs[0].digest, NOW, "anna")
    for thread in threads:
        thread.join()
    assert Approvals(folder).standing_of(runs[0].digest) == "approved"
    assert len(Approvals(folder).waiting()) == 19


# --- the standing rule ---------------------------------------------------------------------


@pytest.fixture
def approved(approvals: Approvals) -> Approvals:
    signed = a_run()
    approvals.keep_waiting(signed, NOW)
    approvals.approve(signed.digest, NOW, "anna")
    return approvals


def test_without_a_former_approval_by_a_person_nothing_stands(approvals: Approvals) -> None:
    assert decided(approvals, a_run()) == "waiting"


def test_by_hand_means_every_run(approved: Approvals) -> None:
    assert decided(approved, a_run("demo-2"), BY_HAND) == "waiting"


def test_a_run_like_the_last_one_stands_and_it_is_kept(approved: Approvals, folder: Path) -> None:
    signed = a_run("demo-2", "seed=8", "federation.rounds=9", "loss.lambda_sal=0.5")
    assert decided(approved, signed) == "approved"
    (kept,) = Approvals(folder).find("demo-2")
    assert (kept.state, kept.by_rule) == ("approved", True)
    assert kept.decided_by == "standing rule of policy.yaml"
    # Once approved it stays so, whatever the policy becomes.
    assert decided(approved, signed, BY_HAND, NOW + timedelta(days=99)) == "approved"


@pytest.mark.parametrize(
    "changed",
    [
        a_run("demo-2", "train.epochs=3"),
        a_run("demo-2", "federation.strategy=fedavgm"),
        a_run("demo-2", "federation.round_timeout_s=9"),  # rounds is allowed, not what begins so
        a_run("demo-2", code_digest="2" * 64),
        a_run("demo-2", architecture_digest="2" * 64),
        a_run("demo-2", federation="other"),
        a_run("demo-2", sites=(ManifestSite(name="north", task="chestx", signing_key="other"),)),
    ],
)
def test_any_other_difference_waits_for_a_person(
    approved: Approvals, changed: SignedManifest
) -> None:
    assert decided(approved, changed) == "waiting"


def test_a_key_that_begins_like_an_allowed_one_is_another_key(approvals: Approvals) -> None:
    former = a_run("demo-1", "model.encoder.options={z: 1}")
    approvals.keep_waiting(former, NOW)
    approvals.approve(former.digest, NOW, "anna")
    rule = STANDING.approval.model_copy(update={"may_differ": ("name", "model.encoder.options.a")})
    policy = STANDING.model_copy(update={"approval": rule})
    allowed = a_run("demo-2", "model.encoder.options={z: 1, a: {deep: 1}}")
    other = a_run("demo-3", "model.encoder.options={z: 1, ab: 1}")
    assert decided(approvals, allowed, policy) == "approved"
    assert decided(approvals, other, policy) == "waiting"


def test_the_last_approval_by_a_person_grows_old(approved: Approvals) -> None:
    days = timedelta(days=STANDING.approval.standing_days)
    assert decided(approved, a_run("demo-2"), now=NOW + days) == "approved"
    later = NOW + days + timedelta(seconds=1)
    # demo-2 stood by the rule alone, so it does not make the approval younger.
    assert decided(approved, a_run("demo-3"), now=later) == "waiting"


def test_a_clock_that_was_set_back_approves_nothing(approved: Approvals) -> None:
    assert decided(approved, a_run("demo-2"), now=NOW - timedelta(seconds=1)) == "waiting"


def test_runs_that_stand_are_compared_with_the_last_one_of_a_person(approved: Approvals) -> None:
    rule = STANDING.approval.model_copy(update={"may_differ": ("name", "seed")})
    policy = STANDING.model_copy(update={"approval": rule})
    assert decided(approved, a_run("demo-2", "seed=8"), policy) == "approved"
    last = approved.last_approved(NOW)
    assert last is not None
    assert last.run == "demo-1"


def test_a_revocation_ends_what_stands_until_a_person_approves_again(approved: Approvals) -> None:
    assert decided(approved, a_run("demo-2")) == "approved"
    approved.revoke("demo-2", NOW + timedelta(minutes=1), "anna")
    later = NOW + timedelta(minutes=2)
    assert decided(approved, a_run("demo-2"), now=later) == "revoked"
    assert decided(approved, a_run("demo-3"), now=later) == "waiting"
    approved.keep_waiting(a_run("demo-3"), later)
    approved.approve(a_run("demo-3").digest, later, "anna")
    assert decided(approved, a_run("demo-4"), now=later) == "approved"


def test_on_one_approval_by_a_person_stand_so_many_runs_and_no_more(approved: Approvals) -> None:
    most = STANDING.approval.max_standing_runs
    for number in range(most):
        assert decided(approved, a_run(f"stands-{number}")) == "approved"
    beyond = a_run("beyond")
    assert decided(approved, beyond) == "waiting"
    assert decided(approved, a_run("stands-0")) == "approved"
    later = NOW + timedelta(minutes=1)
    approved.keep_waiting(beyond, later)
    approved.approve(beyond.digest, later, "anna")
    assert decided(approved, a_run("after"), now=later) == "approved"


def test_runs_that_stand_are_bounded(approved: Approvals, folder: Path) -> None:
    many = STANDING.approval.model_copy(update={"max_standing_runs": 2 * MAX_STANDING})
    policy = STANDING.model_copy(update={"approval": many})
    before = NOW - timedelta(days=1)  # on an earlier approval by a person
    by_rule = {"state": "approved", "decided_at": before, "decided_by": "rule", "by_rule": True}
    for number in range(MAX_STANDING):
        put(folder, a_run(f"stands-{number}"), NOW + timedelta(seconds=number), **by_rule)
    for number in range(MAX_STANDING, MAX_STANDING + 2):
        moment = NOW + timedelta(seconds=number)
        assert decided(approved, a_run(f"stands-{number}"), policy, now=moment) == "approved"
    assert len([kept for kept in approved.approved() if kept.by_rule]) == MAX_STANDING
    assert approved.find("demo-1")[0].state == "approved"
