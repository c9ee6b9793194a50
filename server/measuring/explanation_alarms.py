"""When a round's maps are a reason to look closer: an alarm is a sentence that names its numbers.

Pure. An alarm needs the whole 95 % interval beyond the threshold: one odd picture is none, and
where there are too few patients for an interval there is no alarm, which the numbers then say.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from common.config.run import AlarmConfig
from common.metrics.estimate import Estimate
from server.measuring.explanation_places import BORDER, IN_WORDS, MARKER, OUTSIDE
from server.record.class_words import in_words

DRIFT, SITE, SIGN = "drift", "site", "sign"
ByClass = Mapping[str, Mapping[str, Estimate]]  # class → metric, or sign, → estimate


@dataclass(frozen=True)
class Alarm:
    """One class of one task whose maps went beyond a threshold in one round."""

    kind: str  # DRIFT, SITE, SIGN, or one of server.measuring.explanation_places.PLACES
    task: str
    class_name: str
    site: str | None  # of SITE
    value: float
    bound: float  # the end of the interval that lies beyond the threshold
    threshold: float
    support: int  # pictures
    sentence: str


def drift_alarms(
    task: str, title: str, drift: ByClass, *, since: int, thresholds: AlarmConfig
) -> Iterator[Alarm]:
    """Yield the classes whose maps have moved away from those of an earlier round."""
    if since == 0:
        return  # before training nothing is looked at on purpose: to move away from it is to learn
    said = f"no longer looks where it did in round {since}"
    for name, measured in drift.items():
        yield from _below(
            measured["spearman"],
            thresholds.drift_floor,
            kind=DRIFT,
            task=task,
            name=name,
            site=None,
            said=f"{title}, {in_words(name)}: the model {said}",
        )


def site_alarms(
    task: str, title: str, site: str, similarity: ByClass, *, thresholds: AlarmConfig
) -> Iterator[Alarm]:
    """Yield the classes for which a site's own model looks elsewhere than the global one."""
    for name, measured in similarity.items():
        yield from _below(
            measured["spearman"],
            thresholds.site_floor,
            kind=SITE,
            task=task,
            name=name,
            site=site,
            said=f"{title}, {in_words(name)}: the model trained at {site} looks elsewhere",
        )


def shortcut_alarms(
    task: str, title: str, shares: ByClass, *, thresholds: AlarmConfig
) -> Iterator[Alarm]:
    """Yield the classes whose evidence lies where no disease can be.

    Border and marker also against their own area: a map laid down at random is no shortcut.
    """
    limits = {
        OUTSIDE: thresholds.outside_share,
        BORDER: thresholds.border_share,
        MARKER: thresholds.marker_share,
    }
    for name, measured in shares.items():
        for place, threshold in limits.items():
            share = measured[place]
            if share.value is None or share.low is None or share.high is None:
                continue
            by_area = share.chance if place != OUTSIDE and share.chance is not None else 0.0
            if share.low <= max(threshold, by_area):
                continue
            yield Alarm(
                kind=place,
                task=task,
                class_name=name,
                site=None,
                value=share.value,
                bound=share.low,
                threshold=threshold,
                support=share.support,
                sentence=(
                    f"{title}, {in_words(name)}: {share.value:.0%} of what speaks for it lies "
                    f"{IN_WORDS[place]} (95 % interval {share.low:.0%} to {share.high:.0%}, alarm "
                    f"above {threshold:.0%}, by area {share.chance:.0%}; "
                    f"{share.support} pictures)."
                ),
            )


def sign_alarms(
    task: str,
    title: str,
    before: ByClass,
    changes: ByClass,
    *,
    since: int,
    thresholds: AlarmConfig,
) -> Iterator[Alarm]:
    """Yield the classes that no longer go with a sign that they surely went with before.

    Surely: the whole interval of the earlier rank correlation lies above 0. That it fell by more
    than the threshold must hold for the whole interval of the change, pictures paired.

    Args:
        task: Its name.
        title: Its name in words.
        before: Class → sign → rank correlation in the earlier round.
        changes: Class → sign → what it is now less what it was.
        since: The earlier round.
        thresholds: The run's.
    """
    for name, of_signs in changes.items():
        for sign, change in of_signs.items():
            was = before.get(name, {}).get(sign)
            if was is None or was.value is None or was.low is None or was.low <= 0:
                continue
            if change.value is None or change.low is None or change.high is None:
                continue
            if change.high >= -thresholds.sign_drop:
                continue
            yield Alarm(
                kind=SIGN,
                task=task,
                class_name=name,
                site=None,
                value=change.value,
                bound=change.high,
                threshold=-thresholds.sign_drop,
                support=change.support,
                sentence=(
                    f"{title}, {in_words(name)}: no longer goes with the sign {in_words(sign)} as "
                    f"in round {since} (rank correlation {was.value:.2f} then, "
                    f"{was.value + change.value:.2f} now; change {change.value:.2f}, 95 % interval "
                    f"{change.low:.2f} to {change.high:.2f}, alarm below "
                    f"{-thresholds.sign_drop:.2f}; {change.support} pictures)."
                ),
            )


def _below(
    found: Estimate,
    threshold: float,
    *,
    kind: str,
    task: str,
    name: str,
    site: str | None,
    said: str,
) -> Iterator[Alarm]:
    if found.value is None or found.low is None or found.high is None or found.high >= threshold:
        return
    yield Alarm(
        kind=kind,
        task=task,
        class_name=name,
        site=site,
        value=found.value,
        bound=found.high,
        threshold=threshold,
        support=found.support,
        sentence=(
            f"{said} (rank correlation of the maps {found.value:.2f}, 95 % interval "
            f"{found.low:.2f} to {found.high:.2f}, alarm below {threshold:.2f}; "
            f"{found.support} pictures)."
        ),
    )
