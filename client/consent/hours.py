"""Hours of the week in which a site works for the federation. Pure: time comes in as a value."""

from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Annotated, Literal, Self, get_args
from zoneinfo import ZoneInfo

from pydantic import Field, model_validator

from common.config.run import Section

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
# Text, because YAML reads an unquoted 20:00 as the number 1200.
TimeOfDay = Annotated[str, Field(strict=True, pattern=r"^(([01]\d|2[0-3]):[0-5]\d|24:00)$")]

_DAYS: tuple[Day, ...] = get_args(Day)
_END_OF_DAY = "24:00"


class Window(Section):
    """A part of the day, on the days on which it begins; past midnight where the end is earlier."""

    days: Annotated[tuple[Day, ...], Field(min_length=1)]
    start: TimeOfDay
    end: TimeOfDay

    @model_validator(mode="after")
    def _has_a_length(self) -> Self:
        if self.start in (self.end, _END_OF_DAY):
            raise ValueError(
                f"start {self.start} and end {self.end} leave no time between them; "
                'the whole day is start: "00:00", end: "24:00"'
            )
        return self


def zone_named(name: str) -> tzinfo:
    """Return a time zone by its IANA name. Raises KeyError or ValueError for an unknown one."""
    return UTC if name == "UTC" else ZoneInfo(name)


def is_open(hours: Sequence[Window], local: datetime) -> bool:
    """Say whether a moment, in the site's own time, lies in one of the windows."""
    return any(_holds(window, local) for window in hours)


def next_opening(hours: Sequence[Window], local: datetime) -> datetime:
    """Return when the first window after a moment begins, in the site's own time."""
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
    days = [midnight + timedelta(days=ahead) for ahead in range(8)]
    starts = [
        day.replace(hour=start.hour, minute=start.minute)
        for day in days
        for window in hours
        if _DAYS[day.weekday()] in window.days
        for start in (time.fromisoformat(window.start),)
    ]
    return min(start for start in starts if start > local)


def _holds(window: Window, local: datetime) -> bool:
    now = f"{local:%H:%M}"  # of equal length, so that texts compare as times do
    today = _DAYS[local.weekday()]
    yesterday = _DAYS[local.weekday() - 1]
    if window.start < window.end:
        return today in window.days and window.start <= now < window.end
    return (today in window.days and now >= window.start) or (
        yesterday in window.days and now < window.end
    )
