"""``fovea resume``: the process of a run that was interrupted, stopped or failed, once more."""

from datetime import datetime, timedelta

from common.config.reading import LoadedConfig, config_digest
from common.errors import RunError
from common.messages.code_digest import site_code_digest
from common.messages.manifest import open_manifest, sign_manifest
from common.messages.signing import read_private_key
from server.operations.federation_file import read_federation
from server.operations.flower_control import control_of
from server.operations.home import CoordinatorHome, RunFolder
from server.operations.order import (
    check_unexpired,
    pinned_run_keys,
    read_manifest,
    read_order,
    write_manifest,
)
from server.operations.runs import ALIVE, RunState, view_run
from server.operations.start import start
from server.record.checkpoint import ModelFiles, load_checkpoint


def resume(
    home: CoordinatorHome, folder: RunFolder, *, renews_manifest: bool, now: datetime
) -> None:
    """Start a run's process again; it goes on after the last finished round.

    Raises RunError when it runs or is over, or when sites are still to be asked and its manifest
    has expired and is not to be renewed.
    """
    state = view_run(folder, now).state
    if state in ALIVE:
        raise RunError(f"run {folder.name} is {state.value}: `fovea status` shows it.")
    if state in (RunState.COMPLETE, RunState.PARTIAL):
        raise RunError(f"run {folder.name} has ended {state.value}: launch a new one.")
    _, loaded = read_order(folder)
    signed = read_manifest(folder)
    manifest = open_manifest(signed, run_keys=pinned_run_keys(home))
    if renews_manifest:
        federation = read_federation(home.federation_file)
        until = now + timedelta(days=federation.run_days)
        run_key = read_private_key(home.run_key)
        values = {"issued_at": now, "expires_at": until, "code_digest": site_code_digest()}
        write_manifest(folder, sign_manifest(manifest.model_copy(update=values), run_key))
    else:
        if _has_rounds_left(folder, loaded):  # else it only closes, and no site is asked
            check_unexpired(manifest, now)
        if manifest.code_digest != site_code_digest():
            raise RunError(
                f"run {folder.name} was launched by another version of Fovea. Go back to it, or "
                f"sign anew with `fovea resume {folder.name} --renew-manifest`: every site must "
                "approve it."
            )
    with control_of(home) as control:
        control.nodes()
        folder.stop_marker.unlink(missing_ok=True)
        start(home, folder, loaded.run, control, now)


def _has_rounds_left(folder: RunFolder, loaded: LoadedConfig) -> bool:
    path = ModelFiles(folder.out / "model").checkpoint
    if not path.exists():
        return True
    checkpoint = load_checkpoint(path, config_digest=config_digest(loaded.run))
    return not checkpoint.is_last(loaded.run)
