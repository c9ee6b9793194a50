"""From what a round's maps say to what the summary keeps of it."""

from collections.abc import Mapping
from dataclasses import asdict

from common.config import RunConfig
from common.metrics.estimate import Estimate, finite_or_none
from server.measuring.central_eval import CentralResult
from server.measuring.explanation_watch import TaskLooks
from server.record.summary import (
    AlarmEntry,
    Estimates,
    ExplanationEntry,
    SiteLooksEntry,
    TaskLooksEntry,
    estimate_entries,
)


def explanation_entry(central: CentralResult, config: RunConfig) -> ExplanationEntry | None:
    """Return what is kept of a round's maps, None where they were not watched."""
    found = central.explanation
    if found is None:
        return None
    rest = central.wall_s - found.seconds
    share = finite_or_none(found.seconds / rest) if rest > 0 else None
    return ExplanationEntry(
        tasks={name: _looks(looks) for name, looks in found.tasks.items()},
        alarms=tuple(AlarmEntry(**asdict(alarm)) for alarm in found.alarms),
        sites_note=found.sites_note,
        seconds=found.seconds,
        share=share,
        remark=_remark(central, share, allowed=config.evaluation.explanation_share),
    )


def _looks(looks: TaskLooks) -> TaskLooksEntry:
    return TaskLooksEntry(
        pictures=looks.pictures,
        of_pictures=looks.of_pictures,
        drift_pictures=looks.drift_pictures,
        since=looks.since,
        drift=_by_class(looks.drift),
        shares=_by_class(looks.shares),
        sites={
            site: SiteLooksEntry(
                pictures=compared.pictures, per_class=_by_class(compared.similarity)
            )
            for site, compared in looks.sites.items()
        },
    )


def _by_class(found: Mapping[str, Mapping[str, Estimate]]) -> dict[str, Estimates]:
    return {name: estimate_entries(estimates) for name, estimates in found.items()}


def _remark(central: CentralResult, share: float | None, *, allowed: float) -> str:
    found = central.explanation
    if found is None or share is None or share <= allowed:
        return ""
    reason = "lower evaluation.explanation_pictures or evaluation.explanation_sites"
    if all(looks.pictures == looks.of_pictures for looks in found.tasks.values()):
        reason = "the whole reference part was looked at and every site, as in a last round"
    elif central.server_round == 0:
        reason = "the first round also reads where anatomy and markers are"
    return (
        f"the maps' numbers took {share:.0%} of the evaluation's time, {allowed:.0%} allowed: "
        f"{reason}."
    )
