"""Where everything of a site lies: one folder, in parts that belong to different users.

``trainer/`` is the trainer's alone (data, policy, keys, audit log), ``connector/`` the connector's
alone (node key, certificate authority), ``run/`` holds the socket through which they speak.
In production these are folders of different users; on a workstation all are one user's.
"""

from dataclasses import dataclass
from pathlib import Path

HOME_VARIABLE = "FOVEA_SITE_HOME"  # environment variable: the site's folder, where none is given
DEFAULT_HOME = Path("/var/lib/fovea-site")


@dataclass(frozen=True)
class SiteHome:
    """The names of a site's files; nothing here touches the disk."""

    root: Path

    # --- the trainer's ---------------------------------------------------------------------

    @property
    def trainer(self) -> Path:
        """Folder of mode 0700, the trainer's user's."""
        return self.root / "trainer"

    @property
    def site_file(self) -> Path:
        """Name, task, pictures and machine of this site (client/home/site.py)."""
        return self.trainer / "site.yaml"

    @property
    def policy_file(self) -> Path:
        """What this site allows (client/consent/policy_file.py)."""
        return self.trainer / "policy.yaml"

    @property
    def run_keys(self) -> Path:
        """Pinned public run keys of the coordinator, one per line (two while it is renewed)."""
        return self.trainer / "run-keys.pub"

    @property
    def signing_key(self) -> Path:
        """The site's own Ed25519 key, mode 0600."""
        return self.trainer / "signing.key"

    @property
    def trainer_lock(self) -> Path:
        """Held by the trainer as long as it lives (common/files/lock.py)."""
        return self.trainer / "trainer.lock"

    @property
    def shard(self) -> Path:
        """The prepared shard."""
        return self.trainer / "shard"

    @property
    def picture_store(self) -> Path:
        """Prepared pictures by content, from which a shard is made again in no time."""
        return self.trainer / "pictures"

    @property
    def state(self) -> Path:
        """What must last: local layers, answers, approvals."""
        return self.trainer / "state"

    @property
    def layers(self) -> Path:
        """Layers of the model that this site keeps to itself (client/training/state.py)."""
        return self.state / "layers"

    @property
    def answers(self) -> Path:
        """Per run: the last round, its request's digest and its stored answer."""
        return self.state / "answers"

    @property
    def approvals(self) -> Path:
        """Manifests that a person has approved or revoked, and those that wait."""
        return self.state / "approvals"

    @property
    def pause_marker(self) -> Path:
        """Exists while a person has paused this site."""
        return self.state / "paused"

    @property
    def audit_log(self) -> Path:
        """Hash-chained JSON lines."""
        return self.trainer / "audit" / "audit.jsonl"

    @property
    def ledger(self) -> Path:
        """What was spent of the privacy budget, and every release (client/records/ledger.py)."""
        return self.trainer / "ledger" / "ledger.jsonl"

    @property
    def ledger_reach(self) -> Path:
        """How far the ledger has reached; in another folder, lest it goes with it."""
        return self.state / "ledger-reached"

    @property
    def peers(self) -> Path:
        """Fingerprints of the sites that this one adds its updates to (client/trust/peers.py)."""
        return self.trainer / "peers.yaml"

    @property
    def secure_rounds(self) -> Path:
        """Keys and shares of the rounds that are summed under masks, per run."""
        return self.state / "secure"

    @property
    def trainer_log(self) -> Path:
        """The trainer's events, when `fovea-site run` supervises it."""
        return self.trainer / "trainer.log"

    # --- the connector's -------------------------------------------------------------------

    @property
    def connector(self) -> Path:
        """Folder of mode 0700, the connector's user's."""
        return self.root / "connector"

    @property
    def connector_file(self) -> Path:
        """Where the coordinator is and how to reach it (client/home/connector_file.py)."""
        return self.connector / "connector.yaml"

    @property
    def node_key(self) -> Path:
        """The node's ECDSA P-384 key, OpenSSH format, mode 0600."""
        return self.connector / "node.key"

    @property
    def certificate_authority(self) -> Path:
        """The certificate that the coordinator's must be signed by."""
        return self.connector / "ca.crt"

    @property
    def connector_log(self) -> Path:
        """The connector's events, when `fovea-site run` supervises it."""
        return self.connector / "connector.log"

    # --- between them ----------------------------------------------------------------------

    @property
    def run(self) -> Path:
        """Folder of mode 0750 (0770 where both are of one group): socket and status files."""
        return self.root / "run"

    @property
    def socket(self) -> Path:
        """The trainer's Unix socket, mode 0660. Its path must stay below 108 bytes."""
        return self.run / "trainer.sock"

    @property
    def connector_status(self) -> Path:
        """What the connector last knew, JSON, written whole; `fovea-site status` reads it."""
        return self.run / "connector.json"

    # --- for others ------------------------------------------------------------------------

    @property
    def admission(self) -> Path:
        """Public keys in a file for the coordinator; nothing secret."""
        return self.root / "admission.json"
