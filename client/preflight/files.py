"""Looks at a site's settings: readable, valid, and telling the same story."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from client.consent.policy import Policy
from client.consent.policy_file import read_policy
from client.home.connector_file import ConnectorSettings, read_connector
from client.home.folders import SiteHome
from client.home.site import SiteSettings, read_site
from client.preflight.finding import Finding, below, error, ok, warning
from common.errors import FoveaError
from common.messages.admission import Admission, read_admission
from common.messages.signing import read_private_key

T = TypeVar("T")


@dataclass(frozen=True)
class SiteFiles:
    """What a site's files say; None where one cannot be used."""

    site: SiteSettings | None
    policy: Policy | None
    connector: ConnectorSettings | None
    sees_trainer: bool  # whether this user may look into the folder
    sees_connector: bool
    findings: tuple[Finding, ...]


def read_site_files(home: SiteHome) -> SiteFiles:
    """Read the three settings files and report on each and on how they fit together."""
    findings: list[Finding] = []
    sees = {folder: _sees(folder, findings) for folder in (home.trainer, home.connector)}

    def read(path: Path, reader: Callable[[Path], T]) -> T | None:
        if not sees[path.parent]:
            return None
        try:
            value = reader(path)
            findings.append(_of_mode(path))
        except FoveaError as problem:
            remedy = "Correct the file; `fovea-site init` makes one from the kit where it is gone."
            findings.append(error(path.name, below(problem, home.root), remedy))
            return None
        return value

    site = read(home.site_file, read_site)
    policy = read(home.policy_file, read_policy)
    connector = read(home.connector_file, read_connector)
    if site is not None and policy is not None:
        findings.append(_policy_allows(site, policy))
    if site is not None and connector is not None:
        findings.append(_same_names(site, connector))
    if site is not None:
        findings.append(_same_admission(home, site))
    return SiteFiles(
        site=site,
        policy=policy,
        connector=connector,
        sees_trainer=sees[home.trainer],
        sees_connector=sees[home.connector],
        findings=tuple(findings),
    )


def _sees(folder: Path, findings: list[Finding]) -> bool:
    """Say whether this user can look into a half of the site."""
    try:
        next(folder.iterdir(), None)
    except FileNotFoundError:
        findings.append(error(folder.name, "no such folder", "Make it with `fovea-site init`."))
        return False
    except OSError:
        remedy = "Run `sudo fovea-site check` to look at both halves of the site."
        findings.append(warning(folder.name, "belongs to another user; not looked at", remedy))
        return False
    return True


def _of_mode(path: Path) -> Finding:
    mode = path.stat().st_mode & 0o777
    if mode & 0o022:
        return error(path.name, f"other users can change it (mode {mode:o})", f"chmod go-w {path}")
    return ok(path.name, "readable and valid")


def _policy_allows(site: SiteSettings, policy: Policy) -> Finding:
    subject = "policy and site"
    if site.task not in policy.tasks:
        return error(
            subject,
            f"the policy does not allow this site's task {site.task}",
            "Add the task to `tasks` of policy.yaml, or correct `task` of site.yaml.",
        )
    size_px = site.preparation.image_size_px
    if size_px > policy.bounds.max_image_size_px:
        return error(
            subject,
            f"pictures are prepared at {size_px} px, the policy allows "
            f"{policy.bounds.max_image_size_px}",
            "Raise bounds.max_image_size_px of policy.yaml, or lower preparation.image_size_px of "
            "site.yaml to what the federation trains at.",
        )
    return ok(subject, "the policy allows the site's task and picture size")


def _same_names(site: SiteSettings, connector: ConnectorSettings) -> Finding:
    mine = (site.federation, site.name)
    its = (connector.federation, connector.site)
    if mine != its:
        return error(
            "names",
            f"site.yaml says {mine[0]}/{mine[1]}, connector.yaml {its[0]}/{its[1]}",
            "Write federation and name as in the start-up kit into both files.",
        )
    return ok("names", f"site {site.name} of federation {site.federation}")


def _same_admission(home: SiteHome, site: SiteSettings) -> Finding:
    """Compare what was sent to the coordinator with what the site is now."""
    subject = "admission.json"
    again = (
        "Send the present keys: make the site again with `fovea-site init` and have the new "
        "admission.json admitted."
    )
    try:
        admission = read_admission(home.admission)
        has_key = read_private_key(home.signing_key).public.text == admission.signing_key
    except FoveaError as problem:
        return warning(subject, below(problem, home.root), again)
    if not has_key:
        return error(subject, "names another signing key than trainer/signing.key", again)
    wrong = _differing(site, admission)
    if wrong:
        return error(
            subject,
            f"says {wrong} than site.yaml",
            "The coordinator knows the site as in admission.json: correct site.yaml, or be "
            "admitted again.",
        )
    return ok(subject, "names this site and its signing key")


def _differing(site: SiteSettings, admission: Admission) -> str:
    pairs = {
        "another name": (site.name, admission.site),
        "another task": (site.task, admission.task),
        "another federation": (site.federation, admission.federation),
    }
    return ", ".join(what for what, (mine, its) in pairs.items() if mine != its)
