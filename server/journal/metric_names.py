"""The names under which a round's numbers are tracked: part of set, task, class and site.

``central/chestx/Nodule/auroc`` with ``.low`` and ``.high`` beside it in the same group. A dot and
not a slash: a slash would open a group of its own for every metric in MLflow's charts.
"""

import re
from collections.abc import Iterator, Mapping

from server.exchange.participation import Outcome
from server.record.summary import (
    ClosingEntry,
    Estimates,
    ExplanationEntry,
    FloorEntry,
    LocalisationEntry,
    RoundEntry,
    SiteRoundEntry,
    SumsEntry,
    TaskEntry,
)
from server.report.comparison import asked_to_train

SUPPORT = ("support", "positives", "positive_patients")
NOT_ALLOWED = re.compile(r"[^\w\-. :/]", re.ASCII)  # of MLflow's metric and parameter names


def round_metrics(entry: RoundEntry) -> dict[str, float]:
    """Return every defined number of a round by its tracked name."""
    return {name: value for part in parts_of(entry) for name, value in part.items()}


def parts_of(entry: RoundEntry) -> tuple[dict[str, float], ...]:
    """Return the coordinator's own numbers first, and then those that each site sent.

    Apart, so that a number that cannot be tracked costs only the others of the same sender. No
    site's part has a name of the coordinator's.
    """
    own = _defined(_coordinator(entry))
    sites = (_defined(_sent_by(site)) for site in entry.sites)
    return (own, *({n: v for n, v in sent.items() if n not in own} for sent in sites))


def _coordinator(entry: RoundEntry) -> dict[str, float | None]:
    asked = asked_to_train(entry)
    named: dict[str, float | None] = {
        "round/wall_s": entry.wall_s,
        "round/central_s": entry.central_s,
        "round/sent_mb": entry.sent_bytes / 1e6,
        "round/received_mb": entry.received_bytes / 1e6,
        "round/score": entry.score,
        "round/sites": len(asked),
        "round/epsilon": entry.epsilon,
        "round/epsilon_run": entry.epsilon_run,
    }
    named |= dict(_summed(entry.summed))
    for outcome in Outcome:
        if outcome is not Outcome.MEASURED:
            named[f"round/{outcome}"] = sum(site.outcome is outcome for site in asked)
    for task, measured in entry.central.items():
        named |= dict(_task(f"central/{task}", measured))
    named |= dict(_explanation(entry.explanation))
    for site in asked:
        place = f"site/{site.site}"
        named[f"{place}/answered"] = site.outcome is Outcome.ANSWERED
        named[f"{place}/num_examples"] = site.num_examples
    return named


def _sent_by(site: SiteRoundEntry) -> dict[str, float | None]:
    named: dict[str, float | None] = {f"site/{site.site}/{n}": v for n, v in site.metrics.items()}
    named[f"site/{site.site}/seconds"] = site.seconds
    named[f"site/{site.site}/epsilon"] = site.epsilon
    named[f"site/{site.site}/epsilon_run"] = site.epsilon_run
    return named | _found_by(site.site, site.evaluation)


def evaluation_metrics(
    evaluations: Mapping[str, Mapping[str, float]],
) -> tuple[dict[str, float], ...]:
    """Return what sites found of one model by its tracked name, a part per site."""
    return tuple(_defined(_found_by(site, found)) for site, found in evaluations.items())


def floor_metrics(floor: FloorEntry | None) -> dict[str, float]:
    """Return by its tracked name how many sites are above the floor; {} where none could tell."""
    if floor is None:
        return {}
    return {"round/sites_above_floor": floor.above, "round/sites_judged": floor.sites}


def summed_evaluation_metrics(groups: Mapping[str, Mapping[str, float | None]]) -> dict[str, float]:
    """Return what the sites of each group found of one model together, by its tracked name."""
    return _defined(
        {
            f"summed/{group}/evaluation/{metric}": value
            for group, found in groups.items()
            for metric, value in found.items()
        }
    )


def _summed(entry: SumsEntry | None) -> Iterator[tuple[str, float | None]]:
    if entry is None:
        return
    for name, group in entry.groups.items():
        yield f"summed/{name}/sites", group.sites
        yield f"summed/{name}/num_examples", group.num_examples
        yield f"summed/{name}/clipped", group.clipped
        for metric, value in group.metrics.items():
            yield f"summed/{name}/{metric}", value


def _explanation(entry: ExplanationEntry | None) -> Iterator[tuple[str, float | None]]:
    if entry is None:
        return
    yield "explanation/alarms", len(entry.alarms)
    yield "explanation/seconds", entry.seconds
    yield "explanation/share_of_evaluation", entry.share
    for task, looks in entry.tasks.items():
        place = f"explanation/{task}"
        yield f"{place}/pictures", looks.pictures
        for name, found in looks.drift.items():
            yield from _group(f"{place}/{name}/drift", found)
        for name, found in looks.shares.items():
            for where, estimate in found.items():
                yield from _group(f"{place}/{name}/{where}", {"share": estimate})
        for site, compared in looks.sites.items():
            for name, found in compared.per_class.items():
                yield from _group(f"{place}/{name}/site_{site}", found)
        for name, of_signs in looks.signs.items():
            for sign, estimate in of_signs.items():
                yield from _group(f"{place}/{name}/sign_{sign}", {"association": estimate})


def closing_metrics(entry: ClosingEntry) -> dict[str, float]:
    """Return by its tracked name every defined number of the model that a run hands on."""
    return _defined(dict(_closing(entry)))


def _closing(entry: ClosingEntry) -> Iterator[tuple[str, float | None]]:
    yield "signs/seconds", entry.signs_seconds
    yield "methods/seconds", entry.methods_seconds
    for task, signs in entry.signs.items():
        for name, of_signs in signs.per_class.items():
            for sign, found in of_signs.items():
                yield from _group(f"signs/{task}/{name}/{sign}", found)
    for task, methods in entry.methods.items():
        yield f"methods/{task}/pictures", methods.pictures
        for row in methods.rows:
            yield from _group(f"methods/{task}/{row.method}", row.estimates)
            yield f"methods/{task}/{row.method}/seconds", row.seconds


def _found_by(site: str, found: Mapping[str, float | None]) -> dict[str, float | None]:
    return {f"federated/{site}/{name}": value for name, value in found.items()}


def _defined(named: Mapping[str, float | None]) -> dict[str, float]:
    return {valid_name(name): float(value) for name, value in named.items() if value is not None}


def valid_name(name: str) -> str:
    """Return a name that MLflow accepts: ``grade>=2`` becomes ``grade_ge_2``."""
    return NOT_ALLOWED.sub("_", name.replace(">=", "_ge_"))


def _task(place: str, entry: TaskEntry) -> Iterator[tuple[str, float | None]]:
    yield f"{place}/score", entry.score
    yield f"{place}/pictures", entry.pictures
    for part, value in entry.loss.items():
        yield f"{place}/loss/{part}", value
    classification = entry.classification
    yield from _group(place, {**classification.average, **classification.grades})
    yield from _group(f"{place}/supported", classification.supported_average)
    for name, estimates in classification.per_class.items():
        yield from _group(f"{place}/{name}", estimates)
    for name, share in entry.context_share.items():
        yield f"{place}/{name}/context_share", share
    for name, value in classification.baseline.items():
        yield f"{place}/majority/{name}", value
    yield from _localisation(place, entry.localisation)
    for name, estimates in entry.concepts.items():
        yield from _group(f"{place}/concepts/{name}", estimates)


def _localisation(place: str, entry: LocalisationEntry) -> Iterator[tuple[str, float | None]]:
    yield from _group(f"{place}/localisation", entry.average)
    yield from _group(f"{place}/localisation/class_average", entry.class_average)
    for name, estimates in entry.per_class.items():
        yield from _group(f"{place}/localisation/{name}", estimates)
    yield f"{place}/localisation/maps_without_evidence", entry.maps_without_positive_evidence
    yield f"{place}/localisation/cases_without_roi", entry.cases_without_roi


def _group(place: str, estimates: Estimates) -> Iterator[tuple[str, float | None]]:
    """Yield values, intervals and chance, and the support once: it is one for a whole group."""
    for metric, estimate in estimates.items():
        yield f"{place}/{metric}", estimate.value
        yield f"{place}/{metric}.low", estimate.low
        yield f"{place}/{metric}.high", estimate.high
        yield f"{place}/{metric}.chance", estimate.chance
    for field in SUPPORT:
        counts: Mapping[str, float | None] = {m: getattr(e, field) for m, e in estimates.items()}
        same = set(counts.values())
        if len(same) == 1:
            yield f"{place}/{field}", same.pop()
        else:
            for metric, count in counts.items():
                yield f"{place}/{metric}.{field}", count
