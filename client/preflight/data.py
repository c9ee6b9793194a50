"""Looks at the pictures: can they be found, and is the shard whole and made from them?"""

import os
from collections.abc import Iterator
from pathlib import Path

from client.consent.policy import Policy
from client.home.folders import SiteHome
from client.home.site import SiteSettings
from client.operations.prepare import expected_fingerprint, open_site_source, site_task
from client.preflight.finding import Finding, below, error, ok, warning
from common.datasets.checksums import verify_shard
from common.datasets.record import Source
from common.datasets.shard import Shard, open_shard, shard_fingerprint
from common.errors import ConfigError, DataError
from common.tasks import Task

PREPARE = "Run `fovea-site prepare`; it reads only what has changed."


def check_pictures(home: SiteHome, site: SiteSettings, policy: Policy | None) -> Iterator[Finding]:
    """Look at labels, data folder, source and shard."""
    try:
        task = site_task(site)
    except ConfigError as problem:
        yield error("labels", str(problem), "Correct `task` and `labels` of site.yaml.")
        return
    yield ok("labels", f"task {task.name}, {len(task.labels)} labels")
    if site.data is not None:
        yield _folder(home.trainer / site.data)
    source, finding = _source(home, site)
    yield finding
    yield from check_shard(home, site, task=task, source=source, policy=policy)


def check_shard(
    home: SiteHome,
    site: SiteSettings,
    *,
    task: Task,
    source: Source | None,
    policy: Policy | None,
) -> Iterator[Finding]:
    """Look at the shard; every byte of it is read."""
    if not home.shard.is_dir():
        yield error("shard", "there is none", "Run `fovea-site prepare`.")
        return
    problems = verify_shard(home.shard)
    if problems:
        said = below("; ".join(problems[:3]), home.root)
        yield error("shard", said, "Run `fovea-site prepare --verify`, and look at the disk.")
        return
    shard = open_shard(home.shard)
    yield ok("shard", f"{len(shard)} pictures, every file as it was written")
    yield _fits(home, site, task=task, shard=shard, source=source)
    if policy is not None:
        yield _enough(shard, policy)
    unnamed = shard.unnamed_pictures("train")
    if unnamed:
        yield warning(
            "patients",
            f"{unnamed} training pictures have no patient in their table; runs with "
            "privacy.unit patient cannot be trained here",
            "Name the patient column in `source` of site.yaml (columns.patient), prepare again.",
        )


def _folder(folder: Path) -> Finding:
    subject = "data folder"
    if not folder.is_dir():
        return error(subject, "does not exist", "Correct `data` of site.yaml, or mount the disk.")
    if not os.access(folder, os.R_OK | os.X_OK):
        return error(
            subject,
            "cannot be read by this user",
            "Give the trainer's user the right to read it (setfacl -R -m u:USER:rX FOLDER).",
        )
    return ok(subject, "readable")


def _source(home: SiteHome, site: SiteSettings) -> tuple[Source | None, Finding]:
    subject = "source"
    try:
        source = open_site_source(home, site)
    except (DataError, ConfigError):
        # The message names rows and files of patients: it is shown where they are prepared alone.
        return None, error(
            subject,
            f"the tables of source {site.source.kind!r} cannot be used",
            "Run `fovea-site prepare`: it names the file, the row and the remedy.",
        )
    left_out = len(source.exclusions)
    found = f"{len(source)} pictures, {left_out} rows left out"
    if left_out > len(source):
        return source, warning(
            subject,
            found,
            "More is left out than used: read shard/exclusions.csv after `fovea-site prepare`.",
        )
    return source, ok(subject, found)


def _fits(
    home: SiteHome, site: SiteSettings, *, task: Task, shard: Shard, source: Source | None
) -> Finding:
    subject = "shard and site"
    side = site.preparation.image_size_px
    if (shard.task, shard.labels) != (task.name, task.labels):
        return error(subject, "the shard is of another task or other labels", PREPARE)
    if shard.images.shape[1:3] != (side, side):
        return error(
            subject, f"the shard has {shard.images.shape[1]} px, site.yaml says {side}", PREPARE
        )
    if source is None:
        return warning(
            subject,
            "the shard fits the settings; whether it is up to date cannot be told",
            "Mend the source first.",
        )
    if shard_fingerprint(home.shard) != expected_fingerprint(site, source):
        return warning(
            subject,
            "pictures, tables, settings or Fovea's version changed since it was prepared",
            PREPARE,
        )
    return ok(subject, "made from the present tables, files and settings")


def _enough(shard: Shard, policy: Policy) -> Finding:
    subject = "cohort"
    patients = {part.name: part.patients for part in shard.card.parts}
    train, val = patients.get("train", 0), patients.get("val", 0)
    found = ", ".join(f"{count} {name}" for name, count in patients.items()) + " patients"
    bounds = policy.bounds
    if train < bounds.min_training_patients:
        return error(
            subject,
            f"{found}; the policy trains with at least {bounds.min_training_patients}",
            "Add pictures and prepare again, or lower bounds.min_training_patients of policy.yaml.",
        )
    if val < bounds.min_validation_patients:
        return warning(
            subject,
            f"{found}; the policy releases no measurement below "
            f"{bounds.min_validation_patients} in val",
            "Raise preparation.split.val of site.yaml and prepare again, or accept that this site "
            "only trains.",
        )
    return ok(subject, found)
