"""From what a run reports while it runs to what its summary keeps."""

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from platform import python_version

from common.config import PhantomSource, RunConfig
from common.evaluate import TaskReport
from common.metrics.estimate import finite_or_none
from common.wire import Metrics
from server.central_eval import CentralResult
from server.participation import Outcome
from server.round_report import RoundReport, SiteRound
from server.summary import (
    ClassificationEntry,
    LocalisationEntry,
    RoundEntry,
    SiteEntry,
    SiteRoundEntry,
    TaskAbout,
    TaskEntry,
    estimate_entries,
)

SECONDS = "seconds"  # the one metric of an update that is no part of the loss
PACKAGES = ("fovea", "torch", "timm", "flwr", "mlflow", "numpy", "scikit-image", "pydantic")


def round_entry(report: RoundReport[CentralResult]) -> RoundEntry:
    """Return what the summary keeps of a round."""
    central = report.central
    return RoundEntry(
        round=report.server_round,
        wall_s=report.wall_s,
        central_s=None if central is None else central.wall_s,
        score=None if central is None else central.score,
        central={}
        if central is None
        else {name: task_entry(measured) for name, measured in central.reports.items()},
        sites=tuple(_site_round(site) for site in report.sites),
    )


def task_entry(report: TaskReport) -> TaskEntry:
    """Return what the summary keeps of one task's evaluation."""
    classification, localisation = report.classification, report.localisation
    return TaskEntry(
        pictures=report.pictures,
        patients=report.patients,
        score=report.score,
        score_is=report.score_is,
        loss=report.loss,
        context_share=report.context_share,
        classification=ClassificationEntry(
            average=estimate_entries(classification.average),
            supported_average=estimate_entries(classification.supported_average),
            grades=estimate_entries(classification.grades),
            per_class={k: estimate_entries(e) for k, e in classification.per_class.items()},
            baseline=classification.baseline,
        ),
        localisation=LocalisationEntry(
            average=estimate_entries(localisation.average),
            class_average=estimate_entries(localisation.class_average),
            per_class={k: estimate_entries(e) for k, e in localisation.per_class.items()},
            maps_without_positive_evidence=localisation.maps_without_positive_evidence,
            cases_without_roi=localisation.cases_without_roi,
        ),
    )


def site_entries(config: RunConfig, num_examples: Mapping[str, int]) -> tuple[SiteEntry, ...]:
    """Return the run's sites, those that never answered without a count."""
    return tuple(
        SiteEntry(name=site.name, task=site.task, num_examples=num_examples.get(site.name))
        for site in config.sites
    )


def tasks_about(config: RunConfig) -> dict[str, TaskAbout]:
    """Return what the run's tasks are."""
    return {
        name: TaskAbout(
            title=task.title,
            kind=task.kind,
            labels=task.labels,
            classes=task.class_names,
            generated=_is_generated(config, name),
        )
        for name, task in config.task_table().items()
    }


def installed_versions() -> dict[str, str]:
    """Return the versions that a run's numbers depend on."""
    found = {"python": python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"  # Fovea itself, run from a checkout
    return found


def _is_generated(config: RunConfig, task: str) -> bool:
    sources = [site.source for site in config.sites if site.task == task]
    return any(
        isinstance(source, PhantomSource) for source in (*sources, config.reference[task].source)
    )


def _site_round(site: SiteRound) -> SiteRoundEntry:
    return SiteRoundEntry(
        site=site.site,
        outcome=site.outcome,
        reason=site.reason,
        num_examples=site.num_examples,
        seconds=site.metrics.get(SECONDS),
        metrics=_finite({k: v for k, v in site.metrics.items() if k != SECONDS}),
        evaluation={},
    )


def with_evaluations(
    entry: RoundEntry, evaluations: Mapping[str, Metrics], *, sites: Sequence[str]
) -> RoundEntry:
    """Return a round's entry with what sites found of its model, which is known a round later.

    ``sites`` is the order of those that were not asked to train in that round.
    """
    known = {site.site for site in entry.sites}
    measured = tuple(
        SiteRoundEntry(
            site=site,
            outcome=Outcome.MEASURED,
            reason="",
            num_examples=None,
            seconds=None,
            metrics={},
            evaluation={},
        )
        for site in sites
        if site in evaluations and site not in known
    )
    completed = tuple(
        site.model_copy(update={"evaluation": _finite(evaluations[site.site])})
        if site.site in evaluations
        else site
        for site in (*entry.sites, *measured)
    )
    return entry.model_copy(update={"sites": completed})


def _finite(metrics: Metrics) -> dict[str, float | None]:
    return {name: finite_or_none(value) for name, value in metrics.items()}
