"""From what maps say, each round and at the end, to what the summary keeps of it."""

from collections.abc import Mapping
from dataclasses import asdict

from common.config.run import RunConfig
from common.metrics.estimate import Estimate, finite_or_none
from server.measuring.central_eval import CentralResult
from server.measuring.explanation_closing import ClosingReport
from server.measuring.explanation_methods import MethodRow
from server.measuring.explanation_watch import TaskLooks
from server.record.summary import (
    AlarmEntry,
    ClosingEntry,
    Estimates,
    ExplanationEntry,
    MethodEntry,
    MethodsEntry,
    SignsEntry,
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


def closing_entry(found: ClosingReport) -> ClosingEntry:
    """Return what is kept of the look at the model that a run hands on."""
    return ClosingEntry(
        round=found.server_round,
        signs={
            name: SignsEntry(
                pictures=signs.pictures,
                patients=signs.patients,
                per_class={
                    label: _by_class(of_signs) for label, of_signs in signs.per_class.items()
                },
                untaught=signs.untaught,
            )
            for name, signs in found.signs.items()
        },
        methods={
            name: MethodsEntry(
                pictures=methods.pictures,
                of_pictures=methods.of_pictures,
                cases=dict(methods.cases),
                rows=tuple(_method(row) for row in methods.rows),
            )
            for name, methods in found.methods.items()
        },
        left_out=dict(found.left_out),
        signs_seconds=found.signs_seconds,
        methods_seconds=found.methods_seconds,
    )


def _method(row: MethodRow) -> MethodEntry:
    return MethodEntry(
        method=row.method,
        failure=row.failure,
        refused=row.refused,
        why_refused=row.why_refused,
        seconds=row.seconds,
        estimates=estimate_entries(row.estimates),
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
        signs=_by_class(looks.signs),
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
