"""Which signs carry a class, in words and rows.

Light: works on a summary alone.
"""

from collections.abc import Iterator

from server.record.class_words import in_words
from server.record.summary import EstimateEntry, Estimates, SignsEntry, Summary
from server.report.comparison import interval, number, when

COLUMNS = (
    "Class",
    "Sign",
    "Evidence where the sign lies",
    "By chance",
    "Above chance, 95 %",
    "Sign said to be there",
    "Goes with the answer",
    "95 % interval",
    "Pictures (patients)",
)
NO_HEADS = (
    "Signs: none; the model has no heads for any (model.concepts is off, or its tasks name none)."
)
NOT_TRAINED = "Signs: not measured, no head was trained here."
NOISED = (
    "Updates carry noise, which also moves the heads of signs that no site has taught: here they "
    "cannot be told from signs that were taught."
)
ON_SIGN, ABOVE = "evidence_on_sign", "evidence_on_sign_above_chance"
GOES_WITH, CALLED = "association", "sign_called"


def signs_sentence(summary: Summary, task: str) -> str:
    """Say what was looked at, which signs are left out and why; "" if nothing was."""
    found = _found(summary, task)
    if summary.closing is None or found is None:
        return ""
    parts = [
        f"Model of {when(summary.closing.round)}, {found.pictures} reference pictures of "
        f"{found.patients} patients."
    ]
    if found.untaught:
        names = ", ".join(in_words(name) for name in found.untaught)
        parts.append(f"Left out, as no site has taught them: {names}.")
    if summary.privacy is not None:
        parts.append(NOISED)
    return " ".join(parts)


def no_signs_sentence(summary: Summary) -> str:
    """Say why no task has signs that could carry a class, "" where one has."""
    if summary.closing is None or summary.closing.signs:
        return ""
    is_untrained = set(summary.tasks) == set(summary.closing.left_out)
    return NOT_TRAINED if is_untrained else NO_HEADS


def left_out_sentences(summary: Summary) -> tuple[str, ...]:
    """Say which tasks nobody has trained the model to answer, and why."""
    if summary.closing is None:
        return ()
    return tuple(
        f"{summary.tasks[task].title}: left out. {why}"
        for task, why in summary.closing.left_out.items()
    )


def carried_sentences(summary: Summary, task: str) -> tuple[str, ...]:
    """Return per class which signs surely carry it, those with most of its evidence first.

    Surely: the evidence on the sign lies above chance and the correlation above 0, each with the
    whole interval.
    """
    found = _found(summary, task)
    return () if found is None else tuple(_carried(found))


def sign_rows(summary: Summary, task: str) -> list[tuple[str, ...]]:
    """Return the rows below COLUMNS, per class the sign with most above chance first."""
    found = _found(summary, task)
    if found is None:
        return []
    return [
        (
            in_words(name),
            in_words(sign),
            _share(estimates[ON_SIGN].value),
            _share(estimates[ON_SIGN].chance),
            interval(estimates[ABOVE]),
            _share(estimates[CALLED].value),
            number(estimates[GOES_WITH].value),
            interval(estimates[GOES_WITH]),
            _support(estimates[ON_SIGN]),
        )
        for name, of_signs in found.per_class.items()
        for sign, estimates in _ordered(of_signs)
    ]


def _found(summary: Summary, task: str) -> SignsEntry | None:
    return None if summary.closing is None else summary.closing.signs.get(task)


def _carried(found: SignsEntry) -> Iterator[str]:
    for name, of_signs in found.per_class.items():
        if not of_signs:
            continue
        sure = [
            f"{in_words(sign)} ({_share(estimates[ON_SIGN].value)} of its evidence, "
            f"{_share(estimates[ON_SIGN].chance)} by chance)"
            for sign, estimates in _ordered(of_signs)
            if _is_above(estimates[ABOVE]) and _is_above(estimates[GOES_WITH])
        ]
        said = ", ".join(sure) or _why_none(of_signs)
        yield f"{in_words(name)}: {said}."


def _why_none(of_signs: dict[str, Estimates]) -> str:
    if not any(estimates[CALLED].support for estimates in of_signs.values()):
        return "not in any of these pictures"
    if not any(estimates[ON_SIGN].support for estimates in of_signs.values()):
        return "nothing speaks for it in the pictures that show it"
    lying = [
        estimates[ABOVE] for estimates in of_signs.values() if estimates[ABOVE].value is not None
    ]
    if not lying:
        return "nothing speaks for any of its signs"
    lacks_interval = all(entry.low is None for entry in lying)
    return "too few patients to say" if lacks_interval else "no sign for sure"


def _ordered(of_signs: dict[str, Estimates]) -> list[tuple[str, Estimates]]:
    def above(pair: tuple[str, Estimates]) -> float:
        value = pair[1][ABOVE].value
        return float("inf") if value is None else -value

    return sorted(of_signs.items(), key=above)


def _is_above(entry: EstimateEntry) -> bool:
    return entry.low is not None and entry.low > 0


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _support(entry: EstimateEntry) -> str:
    return f"{entry.support} ({entry.positive_patients})"
