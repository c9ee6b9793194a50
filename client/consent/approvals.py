"""Which runs a person at this site has approved or revoked, and which wait: a file per manifest.

Under the folder lies ``<digest>.json`` for every manifest that was ever seen. A crash leaves the
former file or the new one; command line and trainer may write at the same time.
"""

import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from client.consent.kept_manifest import Kept, newly_seen
from client.consent.manifest_diff import changes_between
from client.consent.policy import Decision, Policy, may_stand_too
from client.home.ownership import as_owner, make_folder
from common.errors import ConfigError, SiteError, WireError
from common.files.whole_file import read_plain, sync_folder, write_whole
from common.messages.manifest import Manifest, SignedManifest

# Who holds the run key could sign manifests without end.
MAX_WAITING = 100
MAX_STANDING = 100
MAX_FILE_BYTES = 64 * 2**20  # far beyond any manifest

_DIGEST = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]{8,64}")


class Approvals:
    """The decisions of a site, in a folder."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; it is made with the first manifest."""
        self._folder = folder

    def standing_of(self, digest: str) -> Decision:
        """Return what was decided on a manifest; one that was never seen waits."""
        kept = self._read(digest)
        return "waiting" if kept is None else kept.state

    def decide(
        self, signed: SignedManifest, manifest: Manifest, policy: Policy, *, now: datetime
    ) -> Decision:
        """Return what was decided, after approving it where the standing rule says so."""
        with self._locked():
            kept = self._read(signed.digest)
            if kept is not None and kept.state != "waiting":
                return kept.state
            last = self._newest_by_a_person()
            if not (
                stands(policy, manifest, last, now=now)
                and may_stand_too(policy, self._by_rule_since(last))
            ):
                return "waiting"
            fresh = kept or newly_seen(signed, manifest, now)
            self._decide(fresh, "approved", now, "standing rule of policy.yaml", by_rule=True)
            if self._holds_more_than(MAX_STANDING):
                self._drop_beyond(MAX_STANDING, [kept for kept in self._all() if kept.by_rule])
            return "approved"

    def keep_waiting(self, signed: SignedManifest, now: datetime) -> None:
        """Keep a verified manifest for a person to see; nothing happens where it is known."""
        if self._read(signed.digest) is not None:
            return
        fresh = newly_seen(signed, Manifest.model_validate_json(signed.manifest_json), now)
        with self._locked():
            if self._read(signed.digest) is None:
                self._write(fresh)
                if self._holds_more_than(MAX_WAITING):
                    self._drop_beyond(MAX_WAITING, self.waiting())

    def approve(self, digest: str, now: datetime, by: str) -> Kept:
        """Approve a manifest that waits or was revoked. Raises ConfigError for an unknown one."""
        with self._locked():
            return self._decide(self._known(digest), "approved", now, by)

    def revoke(self, digest_or_run: str, now: datetime, by: str) -> tuple[Kept, ...]:
        """Revoke a manifest, or all of a run. Raises ConfigError for an unknown one."""
        with self._locked():
            return tuple(
                self._decide(kept, "revoked", now, by) for kept in self.find(digest_or_run)
            )

    def find(self, digest_or_run: str) -> tuple[Kept, ...]:
        """Return what a run's name, or a digest of which 8 characters are enough, stands for.

        Raises ConfigError when that is nothing, or different runs.
        """
        everything = self._all()
        found = [kept for kept in everything if kept.digest == digest_or_run] or [
            kept
            for kept in everything
            if kept.run == digest_or_run
            or (_PREFIX.fullmatch(digest_or_run) and kept.digest.startswith(digest_or_run))
        ]
        if not found:
            raise ConfigError(
                f"{digest_or_run!r}: this site knows no such run. `fovea-site waiting --all` "
                "lists them; of a digest at least 8 characters are needed."
            )
        if len({kept.run for kept in found}) > 1:
            digests = ", ".join(f"{kept.digest[:16]} ({kept.run})" for kept in found)
            raise ConfigError(f"{digest_or_run!r} stands for several: {digests}. Give more of one.")
        return tuple(found)

    def waiting(self) -> list[Kept]:
        """Return what no one has decided on, the oldest first."""
        return [kept for kept in self._all() if kept.state == "waiting"]

    def approved(self) -> list[Kept]:
        """Return what is approved, the oldest first."""
        return [kept for kept in self._all() if kept.state == "approved"]

    def revoked(self) -> list[Kept]:
        """Return what is revoked, the oldest first."""
        return [kept for kept in self._all() if kept.state == "revoked"]

    def last_approved(self, now: datetime) -> Kept | None:
        """Return what a person approved last, to compare a waiting run with."""
        dated = [
            (kept.decided_at, kept)
            for kept in self.approved()
            if not kept.by_rule and kept.decided_at is not None and kept.decided_at <= now
        ]
        return max(dated, key=lambda pair: pair[0])[1] if dated else None

    def _newest_by_a_person(self) -> Kept | None:
        dated = [
            (kept.decided_at, kept)
            for kept in self._all()
            if not kept.by_rule and kept.decided_at is not None
        ]
        return max(dated, key=lambda pair: pair[0])[1] if dated else None

    def _by_rule_since(self, last: Kept | None) -> int:
        decided = [kept.decided_at for kept in self._all() if kept.by_rule]
        since = None if last is None else last.decided_at
        return sum(at is not None and (since is None or at >= since) for at in decided)

    def _all(self) -> list[Kept]:
        if not self._folder.exists():
            return []
        # Not glob: it would pass over a folder that this user may not read.
        found = [self._read(path.stem) for path in self._folder.iterdir() if path.suffix == ".json"]
        return sorted(
            (kept for kept in found if kept is not None),
            key=lambda kept: (kept.first_seen, kept.digest),
        )

    def _holds_more_than(self, count: int) -> bool:
        return sum(path.suffix == ".json" for path in self._folder.iterdir()) > count

    def _known(self, digest: str) -> Kept:
        kept = self._read(digest)
        if kept is None:
            raise ConfigError(f"manifest {digest[:16]!r}: this site has not received it.")
        return kept

    def _read(self, digest: str) -> Kept | None:
        if not _DIGEST.fullmatch(digest):
            raise ConfigError(f"{digest[:70]!r}: expected the 64 characters of a digest.")
        path = self._path(digest)
        try:
            kept = Kept.model_validate_json(read_plain(path, at_most=MAX_FILE_BYTES))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SiteError(
                f"{path}: cannot be read ({error.strerror}). Mend its rights."
            ) from error
        except ValidationError as error:
            raise SiteError(_damaged(path)) from error
        if kept.digest != digest:
            raise SiteError(_damaged(path))
        return kept

    def _decide(
        self, kept: Kept, state: Decision, now: datetime, by: str, *, by_rule: bool = False
    ) -> Kept:
        decided = kept.model_copy(
            update={"state": state, "decided_at": now, "decided_by": by, "by_rule": by_rule}
        )
        self._write(decided)
        return decided

    def _write(self, kept: Kept) -> None:
        path = self._path(kept.digest)
        write_whole(path, kept.model_dump_json(indent=1).encode() + b"\n", mode=0o600)

    def _drop_beyond(self, most: int, oldest_first: Sequence[Kept]) -> None:
        for kept in oldest_first[: max(0, len(oldest_first) - most)]:
            self._path(kept.digest).unlink()
        sync_folder(self._folder)

    def _path(self, digest: str) -> Path:
        return self._folder / f"{digest}.json"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with as_owner(self._folder):
            make_folder(self._folder)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            handle = os.open(self._folder / ".lock", flags, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                yield
            finally:
                os.close(handle)  # and with it the lock


def stands(policy: Policy, manifest: Manifest, last: Kept | None, *, now: datetime) -> bool:
    """Say whether a run needs no approval of its own: like the last, but for what may differ.

    Args:
        policy: Has the rule.
        manifest: Of the run.
        last: What a person decided on last. A revocation ends all standing approval.
        now: The time.
    """
    rule = policy.approval
    if rule.mode != "standing" or last is None or last.state != "approved":
        return False
    if last.decided_at is None or not (
        timedelta() <= now - last.decided_at <= timedelta(days=rule.standing_days)
    ):
        return False
    try:
        former = last.manifest()
    except WireError:
        return False  # of another version of Fovea: a person must look
    return all(
        _may_differ(change.key, rule.may_differ) for change in changes_between(former, manifest)
    )


def _may_differ(key: str, allowed: Sequence[str]) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in allowed)


def _damaged(path: Path) -> str:
    return f"{path}: is damaged. Move it away; the run then waits for approval again."
