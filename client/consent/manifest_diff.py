"""What a run would do here, and how it differs from the last one that was approved."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import JsonValue
from rich.markup import escape
from rich.table import Table

from client.consent.policy import Policy
from common.config.run import RunConfig, Section
from common.machine.printable import printable
from common.messages.manifest import Manifest

_NOTHING = object()  # a key that a manifest does not have
_EPSILON = "ε of all runs here; no training loss"  # of a run with noise


class Change(Section):
    """A key that two manifests do not agree on."""

    key: str  # dotted, as in a run's YAML; of the manifest itself: sites, …_digest
    kind: Literal["added", "removed", "changed"]
    before: JsonValue
    after: JsonValue


class Difference(Section):
    """How a run differs from the last one that was approved."""

    run: str
    former_run: str
    federation_differs: bool
    joined: tuple[str, ...]  # sites
    left: tuple[str, ...]
    former_rounds: int
    rounds: int
    former_expires_at: datetime
    expires_at: datetime
    code_differs: bool
    network_differs: bool
    changes: tuple[Change, ...]  # all of them; a run's name and dates differ by nature and are not


def difference(former: Manifest, manifest: Manifest) -> Difference:
    """Return how a manifest differs from a former one."""
    sites, former_sites = _names(manifest), _names(former)
    return Difference(
        run=manifest.run,
        former_run=former.run,
        federation_differs=manifest.federation != former.federation,
        joined=tuple(name for name in sites if name not in former_sites),
        left=tuple(name for name in former_sites if name not in sites),
        former_rounds=former.config.federation.rounds,
        rounds=manifest.config.federation.rounds,
        former_expires_at=former.expires_at,
        expires_at=manifest.expires_at,
        code_differs=manifest.code_digest != former.code_digest,
        network_differs=manifest.architecture_digest != former.architecture_digest,
        changes=changes_between(former, manifest),
    )


def changes_between(former: Manifest, manifest: Manifest) -> tuple[Change, ...]:
    """Return every key that differs, in the order of the keys."""
    before, after = dict(_leaves(former)), dict(_leaves(manifest))
    return tuple(
        _change(key, before.get(key, _NOTHING), after.get(key, _NOTHING))
        for key in sorted(before.keys() | after.keys())
        if before.get(key, _NOTHING) != after.get(key, _NOTHING)
    )


def headlines(found: Difference) -> tuple[str, ...]:
    """Return what weighs most in a difference, a sentence each."""
    lines = [f"Compared with {found.former_run}, the last run that a person here approved:"]
    if found.federation_differs:
        lines.append("It is of another federation.")
    if found.joined:
        lines.append(f"Sites that joined: {', '.join(found.joined)}.")
    if found.left:
        lines.append(f"Sites that left: {', '.join(found.left)}.")
    if found.rounds != found.former_rounds:
        lines.append(f"It has {found.rounds} rounds instead of {found.former_rounds}.")
    if found.code_differs:
        lines.append("The Fovea version of the coordinator differs.")
    if found.network_differs:
        lines.append("The network is another: names or shapes of its arrays differ.")
    lines.append(f"It expires on {_moment(found.expires_at)}.")
    if not found.changes:
        lines.append("Everything else is the same.")
    return tuple(lines)


def changes_table(changes: Sequence[Change]) -> Table:
    """Return the changed keys as a table for the terminal."""
    table = Table("key", "last approved", "this run", header_style="bold")
    for change in changes:
        before = "[dim]-[/]" if change.kind == "added" else _shown(change.before)
        after = "[dim]-[/]" if change.kind == "removed" else _shown(change.after)
        table.add_row(_shown(change.key), before, after)
    return table


def in_words(manifest: Manifest, *, site: str, policy: Policy, code_digest: str) -> tuple[str, ...]:
    """Return what a run would do at this site, a sentence each.

    Args:
        manifest: Of the run.
        site: Name of this site.
        policy: Says what of it this site lets leave.
        code_digest: Of the code that is installed here.
    """
    config = manifest.config
    entry = manifest.site(site)
    task = "no task: this site is not named in it" if entry is None else f"task {entry.task}"
    names = _names(manifest)
    same = manifest.code_digest == code_digest
    return (
        f"Run {manifest.run} of federation {manifest.federation}, at this site for {task}; "
        f"{len(names)} sites: {', '.join(names)}.",
        f"At most {config.federation.rounds} rounds of {_work(config)}, on "
        f"pictures of {config.data.image_size_px} x {config.data.image_size_px} pixels, network "
        f"{config.model.encoder.name}; signed on {_moment(manifest.issued_at)}, expires on "
        f"{_moment(manifest.expires_at)}.",
        "The coordinator has the same Fovea code as this site."
        if same
        else "The Fovea version of the coordinator differs from the one installed here.",
        "Leaves this site in a round: " + "; ".join(_leaving(config, policy)) + ".",
        "Leaves this site at the start of the run: "
        + (
            "the data card, counts per class and per sign."
            if policy.release.data_card
            else "how many pictures and patients it holds."
        ),
        "Never leaves: pictures, outlines of lesions, labels of a patient, saliency maps, names of "
        "files or patients.",
    )


def _work(config: RunConfig) -> str:
    if config.privacy.enabled:
        return f"{config.privacy.steps_per_round} steps"
    return f"{config.train.epochs} local epochs"


def _leaving(config: RunConfig, policy: Policy) -> Iterator[str]:
    is_masked = config.secure_aggregation.enabled
    if policy.release.update and is_masked:
        yield from _leaving_under_masks(config, policy)
    elif policy.release.update:
        noise = ", with noise" if config.privacy.enabled else ""
        yield (
            "the change of the network's trunk and of the head of this site's task"
            f"{noise}{_kept(config)}"
        )
        yield "how many pictures it was trained on"
    # Under masks measurements leave with the update or not at all.
    if policy.release.metrics and not is_masked:
        if not config.privacy.enabled:
            yield "means of the loss"
        elif policy.release.update:
            yield _EPSILON
        if policy.release.update:
            yield "how long training took"
        yield _measurements(policy)
    if not policy.release.update and (is_masked or not policy.release.metrics):
        yield "nothing but refusals"


def _leaving_under_masks(config: RunConfig, policy: Policy) -> Iterator[str]:
    is_private, has_metrics = config.privacy.enabled, policy.release.metrics
    noise = ", with noise" if is_private else ""
    parts = [f"its update{noise}{_kept(config)}", "number of pictures"]
    if has_metrics and not is_private:
        parts.append("loss")
    if has_metrics:
        parts.append(_measurements(policy))
    yield (
        f"under masks, readable only in a sum of at least {config.secure_aggregation.min_group} "
        f"sites: {', '.join(parts[:-1])} and {parts[-1]}"
    )
    yield "keys and shares of secrets"
    if is_private and has_metrics:
        yield _EPSILON


def _kept(config: RunConfig) -> str:
    local = config.federation.local_layers
    return f", without {', '.join(local)}" if local else ""


def _measurements(policy: Policy) -> str:
    least = policy.bounds.min_validation_patients
    return f"measurements on the validation part, if that has at least {least} patients"


def _names(manifest: Manifest) -> tuple[str, ...]:
    return tuple(sorted({site.name for site in manifest.sites}))


def _leaves(manifest: Manifest) -> Iterator[tuple[str, JsonValue]]:
    """Yield the dotted keys of what two runs may have in common, with their values."""
    values = manifest.model_dump(mode="json")
    config = values["config"]
    yield from _below("sites", _by_name(values["sites"]))
    # Below a key of its own, so that it cannot stand for what the manifest says of a site.
    yield from _below("sites", {site["name"]: {"config": site} for site in config.pop("sites")})
    for key, value in config.items():
        yield from _below(key, value)
    for key in ("federation", "architecture_digest", "code_digest"):
        yield ("manifest.federation" if key == "federation" else key), values[key]


def _by_name(entries: list[dict[str, JsonValue]]) -> JsonValue:
    """Return a list of named entries as a mapping, as it is where a name stands in it twice."""
    counts = Counter(str(entry["name"]) for entry in entries)
    if max(counts.values()) > 1:
        return list(entries)
    return {str(entry["name"]): entry for entry in entries}


def _below(key: str, value: JsonValue) -> Iterator[tuple[str, JsonValue]]:
    if not isinstance(value, Mapping) or not value:
        yield key, value
        return
    for name, part in value.items():
        # A name with a dot in it must not look like two levels.
        yield from _below(f"{key}.{json.dumps(name) if '.' in name else name}", part)


def _change(key: str, before: object, after: object) -> Change:
    kind: Literal["added", "removed", "changed"] = "changed"
    if before is _NOTHING:
        kind, before = "added", None
    if after is _NOTHING:
        kind, after = "removed", None
    return Change.model_validate({"key": key, "kind": kind, "before": before, "after": after})


def _shown(value: JsonValue) -> str:
    """Return a value from outside as it may stand in a table: no markup, no control characters."""
    return escape(printable(value if isinstance(value, str) else json.dumps(value)))


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
