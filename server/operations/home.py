"""Where everything of a coordinator lies."""

from dataclasses import dataclass
from pathlib import Path

HOME_VARIABLE = "FOVEA_HOME"  # environment variable: the coordinator's folder, where none is given
DEFAULT_HOME = Path("/var/lib/fovea")


@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    root: Path

    @property
    def name(self) -> str:
        """The run's name."""
        return self.root.name

    @property
    def manifest(self) -> Path:
        """The signed manifest, JSON: manifest_json and signature."""
        return self.root / "manifest.json"

    @property
    def order(self) -> Path:
        """What `fovea launch` asked for, JSON: server/operations/order.py."""
        return self.root / "order.json"

    @property
    def config(self) -> Path:
        """The run's whole configuration, YAML, as it was when the run was launched."""
        return self.root / "config.yaml"

    @property
    def out(self) -> Path:
        """Summary, report, pictures, models and checkpoint."""
        return self.root / "out"

    @property
    def status(self) -> Path:
        """What the run is doing, JSON, written whole: server/operations/run_status.py."""
        return self.root / "status.json"

    @property
    def stop_marker(self) -> Path:
        """Exists when a person asked the run to stop after the answers it has."""
        return self.root / "stop"

    @property
    def log(self) -> Path:
        """Events of the process that runs the rounds."""
        return self.root / "server.log"


@dataclass(frozen=True)
class CoordinatorHome:
    """The names of a coordinator's files; nothing here touches the disk."""

    root: Path

    @property
    def federation_file(self) -> Path:
        """Name, endpoint and sites of the federation (server/operations/federation_file.py)."""
        return self.root / "federation.yaml"

    @property
    def authority_key(self) -> Path:
        """The certificate authority's private key, mode 0600."""
        return self.root / "ca" / "ca.key"

    @property
    def authority(self) -> Path:
        """The certificate authority's certificate: what sites pin (two while it is renewed)."""
        return self.root / "ca" / "ca.crt"

    @property
    def server_key(self) -> Path:
        """The server's TLS key, mode 0600."""
        return self.root / "tls" / "server.key"

    @property
    def server_certificate(self) -> Path:
        """The server's TLS certificate."""
        return self.root / "tls" / "server.crt"

    @property
    def run_key(self) -> Path:
        """The Ed25519 key that signs manifests and requests, mode 0600."""
        return self.root / "keys" / "run.key"

    @property
    def run_keys(self) -> Path:
        """Public run keys that sites pin, the current one first (two while it is renewed)."""
        return self.root / "keys" / "run-keys.pub"

    @property
    def kits(self) -> Path:
        """A start-up kit per site, nothing secret."""
        return self.root / "kits"

    @property
    def admitted(self) -> Path:
        """A file per admitted site (server/operations/admitted.py)."""
        return self.root / "admitted"

    @property
    def superlink(self) -> Path:
        """Flower's own: state.db and its log."""
        return self.root / "superlink"

    @property
    def runs(self) -> Path:
        """A folder per run."""
        return self.root / "runs"

    def run(self, name: str) -> RunFolder:
        """Return the folder of one run."""
        return RunFolder(self.runs / name)
