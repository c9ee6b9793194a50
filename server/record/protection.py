"""What protects a run's patients, in sentences: noise and its ε, sums, and what neither covers.

Light: works on a summary alone. Wherever ε is shown, :func:`not_covered` is shown beside it.
"""

import math
from collections.abc import Sequence

from common.config.privacy import Unit
from common.model.layers import TRUNK
from common.not_covered import NOT_COVERED
from server.exchange.participation import Outcome
from server.record.summary import Summary, headline

NO_NOISE = "Privacy: no differential privacy: updates carry no noise."
NO_SUMS = "No secure sums: who runs the server sees each site's update."
IN_THE_SUM = "in the sum only"
UNITS: dict[Unit, str] = {
    "patient": "unit patient (all pictures of one patient)",
    "image": "unit image (one picture; of a patient with several, more may show)",
}


def privacy_sentence(summary: Summary) -> str:
    """Say how updates are noised, for whom it counts and what is spent after the last round."""
    about = summary.privacy
    if about is None:
        return NO_NOISE
    how = f"Privacy: DP-SGD, {UNITS[about.unit]}, σ {about.noise_multiplier:g}"
    last = summary.rounds[-1] if summary.rounds else None
    if last is None or last.epsilon is None:
        return f"{how}, δ = {about.delta:g}; no site has reported its ε: their ledgers hold it."
    return (
        f"{how}, ε = {epsilon_text(last.epsilon)} at δ = {about.delta:g} after round {last.round} "
        "(largest over sites, over all runs on their data)"
        + (
            "."
            if last.epsilon_run is None
            else f"; this run alone ε = {epsilon_text(last.epsilon_run)}."
        )
    )


def not_covered(summary: Summary) -> tuple[str, ...]:
    """Return what leaves a site beside what ε covers; nothing for a run that has no ε."""
    return () if summary.privacy is None else NOT_COVERED


def not_covered_sentence(summary: Summary) -> str:
    """Return the same as one sentence, "" for a run that has no ε."""
    kinds = not_covered(summary)
    return f"Not covered by ε: {'; '.join(kinds)}." if kinds else ""


def sums_sentence(summary: Summary) -> str:
    """Say of how many sites the last round's sums are, or that there are no sums."""
    about = summary.secure
    if about is None:
        return NO_SUMS
    summed = [entry.summed for entry in summary.rounds if entry.summed and entry.summed.groups]
    if not summed:
        return f"Sums only, of at least {about.min_group} sites; no round was summed."
    trunk = summed[-1].groups.get(TRUNK)
    whole = "" if trunk is None else f": {trunk.sites} of {trunk.of} sites"
    parts = [f"{n} {g.sites} of {g.of}" for n, g in summed[-1].groups.items() if n != TRUNK]
    heads = f"; heads: {', '.join(parts)}" if parts else ""
    local = "".join(f"; the head of {task} stays at its sites" for task in about.local_heads)
    return f"Sums only{whole}{heads}{local}."


def floor_sentence(summary: Summary) -> str:
    """Say how many sites are above the floor, by the last model they measured; "" for no floor."""
    if not summary.site_floor:
        return ""
    wanted = ", ".join(f"{metric} ≥ {least:g}" for metric, least in summary.site_floor.items())
    known = [(entry.round, entry.floor) for entry in summary.rounds if entry.floor is not None]
    if not known:
        return f"Floor of every site ({wanted}): no site could tell."
    number, floor = known[-1]
    who = "All sites above the floor" if floor.above == floor.sites else "Sites above the floor"
    return f"{who}: {floor.above} of {floor.sites} ({wanted}; model of round {number})."


def protection(summary: Summary) -> tuple[str, ...]:
    """Return every sentence that a reader must see beside a run's numbers."""
    sentences = (
        privacy_sentence(summary),
        not_covered_sentence(summary),
        sums_sentence(summary),
        floor_sentence(summary),
    )
    return tuple(sentence for sentence in sentences if sentence)


def epsilon_text(epsilon: float | None) -> str:
    """Return ε in two digits, rounded up: never less than was spent; a dash where none is known."""
    return "–" if epsilon is None else f"{math.ceil(epsilon * 100) / 100:.2f}"


def epsilon_columns(summary: Summary) -> tuple[str, ...]:
    """Return the heads of :func:`epsilon_rows`."""
    tasks = [about.title for about in summary.tasks.values()]
    measures = [f"{title}: {what}" for title in tasks for what in ("AUROC", "map energy in lesion")]
    return ("Round", "ε, all runs", "ε, this run", *measures)


def epsilon_rows(summary: Summary) -> tuple[tuple[str, ...], ...]:
    """Return, for every evaluated round of a run with noise, ε beside accuracy and localisation."""
    if summary.privacy is None:
        return ()
    rows = []
    for entry in summary.rounds:
        if not entry.central:
            continue
        cells = [str(entry.round), epsilon_text(entry.epsilon), epsilon_text(entry.epsilon_run)]
        for task in summary.tasks:
            measured = entry.central.get(task)
            auroc = None if measured is None else headline(measured.classification, "auroc")
            energy = None if measured is None else measured.localisation.average["energy_in_roi"]
            values = [None if found is None else found.value for found in (auroc, energy)]
            cells += ["–" if value is None else f"{value:.3f}" for value in values]
        rows.append(tuple(cells))
    return tuple(rows)


def site_epsilon(summary: Summary, site: str) -> str:
    """Return the last ε that a site reported, of this run in brackets, a dash for none."""
    told = [s for r in summary.rounds for s in r.sites if s.site == site and s.epsilon is not None]
    if not told:
        return "–"
    last = told[-1]
    run = "" if last.epsilon_run is None else f" ({epsilon_text(last.epsilon_run)})"
    return epsilon_text(last.epsilon) + run


def pictures_text(summary: Summary, site: str, num_examples: int | None) -> str:
    """Return a site's training pictures, or that only their sum is known."""
    if num_examples is not None:
        return str(num_examples)
    return IN_THE_SUM if summary.secure is not None and _answered(summary, site) else "–"


def _answered(summary: Summary, site: str) -> bool:
    outcomes: Sequence[Outcome] = [
        s.outcome for r in summary.rounds for s in r.sites if s.site == site
    ]
    return Outcome.ANSWERED in outcomes
