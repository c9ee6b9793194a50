"""From what a run reports while it runs to what its summary keeps."""

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from platform import python_version

from common.config.run import PhantomSource, RunConfig
from common.learning.concept_evaluation import ConceptReport
from common.learning.evaluate import TaskReport
from common.messages.kinds import Metrics
from common.metrics.estimate import finite_or_none
from common.model.layers import TRUNK, is_local
from common.not_covered import NOT_COVERED
from common.secure_sum.layout import Measure
from server.exchange.participation import Outcome
from server.measuring.central_eval import CentralResult
from server.measuring.explanation_entries import explanation_entry
from server.record.floor import floor_entry
from server.record.summary import (
    ClassificationEntry,
    Estimates,
    FloorEntry,
    GroupEntry,
    LocalisationEntry,
    PrivacyAbout,
    RoundEntry,
    SecureAbout,
    SiteEntry,
    SiteRoundEntry,
    SumsEntry,
    TaskAbout,
    TaskEntry,
    estimate_entries,
)
from server.rounds.round_report import RoundReport, SecureSums, SiteRound

# Metrics of an update that are no part of the loss.
SECONDS = "seconds"
EPSILON, EPSILON_RUN = "epsilon", "epsilon_run"
_NO_LOSS = (SECONDS, EPSILON, EPSILON_RUN)

PACKAGES = ("fovea", "torch", "timm", "flwr", "mlflow", "numpy", "scikit-image", "pydantic")


def round_entry(
    report: RoundReport[CentralResult], *, config: RunConfig, before: RoundEntry | None
) -> RoundEntry:
    """Return what the summary keeps of a round; ``before`` is the entry of the last one."""
    central = report.central
    sites = tuple(_site_round(site) for site in report.sites)
    epsilon, epsilon_run = None, None
    if before is not None:
        # What was spent stays spent, also by a site that is away in this round.
        epsilon, epsilon_run = before.epsilon, before.epsilon_run
    return RoundEntry(
        round=report.server_round,
        wall_s=report.wall_s,
        central_s=None if central is None else central.wall_s,
        sent_bytes=report.traffic.sent_bytes,
        received_bytes=report.traffic.received_bytes,
        score=None if central is None else central.score,
        central={}
        if central is None
        else {name: task_entry(measured) for name, measured in central.reports.items()},
        sites=sites,
        epsilon=_largest([epsilon, *(site.epsilon for site in sites)]),
        epsilon_run=_largest([epsilon_run, *(site.epsilon_run for site in sites)]),
        floor=None,
        summed=None if report.summed is None else sums_entry(report.summed, config),
        explanation=None if central is None else explanation_entry(central, config),
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
        concepts={} if report.concepts is None else _concepts(report.concepts),
    )


def _concepts(report: ConceptReport) -> dict[str, Estimates]:
    """Return what is kept of each concept: AUROC, and localisation where it was outlined."""
    looked = report.localisation.per_class
    return {
        name: estimate_entries({"auroc": measured["auroc"], **looked.get(name, {})})
        for name, measured in report.classification.per_class.items()
    }


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


def privacy_about(config: RunConfig) -> PrivacyAbout | None:
    """Return how a run's updates are noised, None where they carry no noise."""
    privacy = config.privacy
    if not privacy.enabled:
        return None
    return PrivacyAbout(
        unit=privacy.unit,
        noise_multiplier=privacy.noise_multiplier,
        clip_norm=privacy.clip_norm,
        sample_rate=privacy.sample_rate,
        steps_per_round=privacy.steps_per_round,
        delta=privacy.delta,
        not_covered=NOT_COVERED,
    )


def secure_about(config: RunConfig) -> SecureAbout | None:
    """Return how a run's updates are summed, None where the server sees each of them."""
    if not config.secure_aggregation.enabled:
        return None
    local_layers = config.federation.local_layers
    return SecureAbout(
        min_group=config.secure_aggregation.min_group,
        local_heads=tuple(t for t in config.tasks if is_local(f"heads.{t}.", local_layers)),
    )


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
        epsilon=site.metrics.get(EPSILON),
        epsilon_run=site.metrics.get(EPSILON_RUN),
        metrics=_finite({k: v for k, v in site.metrics.items() if k not in _NO_LOSS}),
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
            epsilon=None,
            epsilon_run=None,
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


def sums_entry(sums: SecureSums, config: RunConfig) -> SumsEntry:
    """Return what the summary keeps of a round's sums, beside how many sites each could be of."""
    groups = {
        name: GroupEntry(
            sites=group.sites,
            of=sum(name in (TRUNK, site.task) for site in config.sites),
            reason=group.reason,
            num_examples=group.num_examples,
            clipped=group.clipped,
            metrics=_finite(_means(group.training, config)),
        )
        for name, group in sums.groups.items()
    }
    return SumsEntry(groups=groups, reason=sums.reason, evaluation={})


def with_told_later(
    entry: RoundEntry, *, floor: FloorEntry | None, summed_evaluation: Mapping[str, Metrics]
) -> RoundEntry:
    """Return a round's entry with what its sites, a round later, tell of its model together.

    ``summed_evaluation`` holds means over the sites of each group; empty without secure sums.
    """
    if not summed_evaluation:
        return entry.model_copy(update={"floor": floor})
    summed = entry.summed or SumsEntry(groups={}, reason="", evaluation={})
    found = {group: _finite(metrics) for group, metrics in summed_evaluation.items()}
    whole = summed.model_copy(update={"evaluation": found})
    return entry.model_copy(update={"floor": floor, "summed": whole})


def floor_before(report: RoundReport[CentralResult], config: RunConfig) -> FloorEntry | None:
    """Return how many sites are above the floor, by the model that they were sent."""
    if report.summed is None:
        return floor_entry(report.evaluations_before, config.federation.site_floor)
    trunk = report.summed.groups.get(TRUNK)
    if trunk is None or trunk.above_floor is None:
        return None
    above, sites = trunk.above_floor
    return FloorEntry(above=above, sites=sites)


def summed_evaluation_before(
    report: RoundReport[CentralResult], config: RunConfig
) -> dict[str, Metrics]:
    """Return what the sites of each group found together of the model that they were sent."""
    groups = {} if report.summed is None else report.summed.groups
    found = {name: _means(group.evaluation, config) for name, group in groups.items()}
    return {name: means for name, means in found.items() if means}


def _means(measures: Mapping[str, Measure], config: RunConfig) -> Metrics:
    """Return the means that enough sites have a part in: that of one site would be its own."""
    least = config.secure_aggregation.min_group
    return {name: each.mean for name, each in measures.items() if each.sites >= least}


def _largest(found: Sequence[float | None]) -> float | None:
    known = [value for value in found if value is not None]
    return max(known) if known else None


def _finite(metrics: Metrics) -> dict[str, float | None]:
    return {name: finite_or_none(value) for name, value in metrics.items()}
