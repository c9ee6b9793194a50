"""Which site's own model looks elsewhere, class by class.

Light: works on a summary alone. Under masks a summary has no such numbers, and nothing is shown.
"""

from collections.abc import Mapping

from server.record.class_words import in_words
from server.record.summary import EstimateEntry, SiteLooksEntry, Summary
from server.report.comparison import interval, number, when

LEAST_DIFFERENCE = 0.05  # in rank correlation; less may be sure and is of no use to a reader

Compared = Mapping[str, tuple[int, SiteLooksEntry]]  # site → the round of its last comparison


def site_columns(summary: Summary, task: str) -> tuple[str, ...]:
    """Return the heads of the table: the sites that were ever compared."""
    return ("Class", *last_compared(summary, task))


def site_rows(summary: Summary, task: str) -> list[tuple[str, ...]]:
    """Return each site's last comparison: how far it looks alike in each class, with interval.

    Classes go down, as there are more of them than a page is wide; below them stands what a site's
    column rests on. [] where no site was compared.
    """
    compared = last_compared(summary, task)
    if not compared:
        return []
    return [
        *(
            (in_words(name), *(_cell(looks, name) for _, looks in compared.values()))
            for name in _classes(compared)
        ),
        ("Pictures", *(str(looks.pictures) for _, looks in compared.values())),
        ("Round", *(str(server_round) for server_round, _ in compared.values())),
    ]


def stand_apart(summary: Summary, task: str) -> tuple[str, ...]:
    """Say in which classes a site surely looks elsewhere, in which none does, and what is unknown.

    Surely: its whole interval lies below each other's by ``LEAST_DIFFERENCE``. Only of sites that
    were compared in the same round: other rounds have other models.
    """
    compared = last_compared(summary, task)
    newest = max((server_round for server_round, _ in compared.values()), default=0)
    said, alike, unknown = [], [], []
    for name in _classes(compared):
        known = {
            site: looks.per_class[name]["spearman"]
            for site, (server_round, looks) in compared.items()
            if server_round == newest and looks.per_class[name]["spearman"].value is not None
        }
        if len(known) < 2:
            continue
        site = min(known, key=lambda site: (known[site].value or 0.0, site))
        if any(entry.low is None for entry in known.values()):
            unknown.append(in_words(name))
        elif _is_apart(known[site], [known[other] for other in known if other != site]):
            found = f"{number(known[site].value)}, {interval(known[site])}"
            said.append(f"{in_words(name)}: {site} surely looks elsewhere more ({found}).")
        else:
            alike.append(in_words(name))
    if alike:
        said.append(f"No site surely stands apart: {', '.join(alike)}.")
    if unknown:
        said.append(f"Too few patients to say: {', '.join(unknown)}.")
    others = sum(server_round == newest for server_round, _ in compared.values())
    if said:
        said.append(f"Held against each other are the {others} sites compared in {when(newest)}.")
    return tuple(said)


def last_compared(summary: Summary, task: str) -> Compared:
    """Return the last comparison of each site with a task, by name."""
    last: dict[str, tuple[int, SiteLooksEntry]] = {}
    for entry in summary.rounds:
        looks = None if entry.explanation is None else entry.explanation.tasks.get(task)
        for site, compared in {} if looks is None else looks.sites.items():
            last[site] = (entry.round, compared)
    return dict(sorted(last.items()))


def _classes(compared: Compared) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for _, looks in compared.values() for name in looks.per_class))


def _cell(looks: SiteLooksEntry, name: str) -> str:
    found = looks.per_class.get(name, {}).get("spearman")
    if found is None or found.value is None:
        return "–"
    bounds = "" if found.low is None else f" ({interval(found)})"
    fewer = "" if found.support == looks.pictures else f", {found.support} pictures"
    return f"{number(found.value)}{bounds}{fewer}"


def _is_apart(one: EstimateEntry, others: list[EstimateEntry]) -> bool:
    """Say whether the whole interval of one lies well below that of each other."""
    return one.high is not None and all(
        other.low is not None and one.high + LEAST_DIFFERENCE < other.low for other in others
    )
