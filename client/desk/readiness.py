"""Can this site's trainer train just now? The reasons why not, each with where to look."""

import shutil
from pathlib import Path

from client.consent.policy_file import read_policy
from client.home.folders import SiteHome
from client.trust.signed_request import read_run_keys
from common.errors import FoveaError

_LOOK = "`fovea-site check` and the trainer's log say more"


def reasons_against(
    home: SiteHome, *, min_free_disk_mb: int, is_warm: bool, is_closing: bool
) -> tuple[str, ...]:
    """Return every reason why a permitted request would not be carried out now."""
    reasons = []
    if is_closing:
        reasons.append("the trainer is stopping")
    if not is_warm:
        reasons.append(f"the shard is not open yet; {_LOOK}")
    if home.pause_marker.exists():
        reasons.append("a person has paused this site; `fovea-site resume` ends that")
    for what, read, path in (
        ("policy", read_policy, home.policy_file),
        ("pinned run keys", read_run_keys, home.run_keys),
    ):
        try:
            read(path)
        except FoveaError:
            reasons.append(f"the {what} cannot be used; {_LOOK}")
    if lack := lack_of_disk(home.trainer, min_free_disk_mb=min_free_disk_mb):
        reasons.append(lack)
    return tuple(reasons)


def lack_of_disk(folder: Path, *, min_free_disk_mb: int) -> str | None:
    """Return that too little of the disk is free, or None."""
    free_mb = shutil.disk_usage(folder).free // 2**20
    if free_mb >= min_free_disk_mb:
        return None
    return f"its disk has {free_mb} MB left, it asks for at least {min_free_disk_mb}"
