"""``order.json``: what `fovea launch` asked for, as the process that runs the rounds reads it."""

from datetime import datetime
from pathlib import Path
from typing import Literal

import yaml
from pydantic import AwareDatetime, ValidationError

from common.config.reading import LoadedConfig, load_config
from common.config.run import RunConfig, Section
from common.errors import RunError, TrustError
from common.files.whole_file import write_whole
from common.messages.manifest import Manifest, SignedManifest, expired
from common.messages.signing import PublicKey, public_key
from server.operations.home import CoordinatorHome, RunFolder


class Order(Section):
    """What the coordinator asked for, apart from the configuration itself."""

    version: Literal[1]
    run: str
    source: Path  # the configuration file that was named
    overrides: tuple[str, ...]
    config_root: Path  # folder that label tables are named from
    data_root: Path | None  # folder that the reference sources start from; None: they read no files
    launched_at: AwareDatetime


class _ManifestFile(Section):
    manifest_json: str
    signature: str


def write_order(folder: RunFolder, order: Order, config: RunConfig) -> None:
    """Write order.json and config.yaml."""
    _write(folder.order, order.model_dump_json(indent=1) + "\n")
    # It may hold the tracking server's password: it is its owner's alone, as all of a run is.
    _write(folder.config, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def read_order(folder: RunFolder) -> tuple[Order, LoadedConfig]:
    """Return a run's order and configuration. Raises RunError naming what is missing or damaged."""
    try:
        order = Order.model_validate_json(folder.order.read_bytes())
    except OSError as error:
        raise RunError(
            f"{folder.order}: cannot be read ({error.strerror}). `fovea runs` lists the runs."
        ) from error
    except ValidationError as error:
        raise RunError(f"{folder.order}: not written by this version of Fovea.") from error
    loaded = load_config(folder.config)
    return order, LoadedConfig(run=loaded.run, root=order.config_root, path=folder.config)


def write_manifest(folder: RunFolder, signed: SignedManifest) -> None:
    """Write manifest.json; an older one is replaced whole."""
    content = _ManifestFile(manifest_json=signed.manifest_json, signature=signed.signature)
    _write(folder.manifest, content.model_dump_json(indent=1) + "\n")


def read_manifest(folder: RunFolder) -> SignedManifest:
    """Read manifest.json; nothing in it is verified. Raises RunError."""
    try:
        content = _ManifestFile.model_validate_json(folder.manifest.read_bytes())
    except OSError as error:
        raise RunError(f"{folder.manifest}: cannot be read ({error.strerror}).") from error
    except ValidationError as error:
        raise RunError(f"{folder.manifest}: not a manifest of this version of Fovea.") from error
    return SignedManifest(content.manifest_json, content.signature)


def check_unexpired(manifest: Manifest, now: datetime) -> None:
    """Raise RunError with the remedy when the time is over in which sites answer a run."""
    if expired(manifest, now):
        raise RunError(
            f"the manifest of run {manifest.run} expired on {manifest.expires_at:%Y-%m-%d}. Sign a "
            f"new one with `fovea resume {manifest.run} --renew-manifest`: every site must approve "
            "it again."
        )


def pinned_run_keys(home: CoordinatorHome) -> tuple[PublicKey, ...]:
    """Return the run keys that sites pin: two while the key is renewed. Raises TrustError."""
    try:
        lines = home.run_keys.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        raise TrustError(f"{home.run_keys}: the public run keys cannot be read.") from error
    return tuple(public_key(line) for line in lines)


def _write(path: Path, text: str) -> None:
    write_whole(path, text.encode(), mode=0o600)
