"""When something was taken or made: dates as files and their names state them, and as people ask for them.

A date is a text in ISO 8601 of local time: `2015-06-01T10:00:00+02:00`, or as much of it as is known (`2015-06`). What a date
filter means is the time on the clock where the picture was taken: the offset is kept for display and plays no part in comparisons.
"""

from __future__ import annotations

import re
from calendar import monthrange, timegm
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from typing import Any, Literal, NamedTuple

DateSource = Literal[
    "original",
    "digitized",
    "exif",
    "xmp",
    "iptc",
    "name",
    "document",
    "creationdate",
    "creation_time",
    "takeout",
    "file",
]
"""Where a date comes from, the most trusted first: EXIF DateTimeOriginal, DateTimeDigitized and DateTime, XMP (in the file, or beside
it), IPTC, the file's name, a document's creation date, Apple's local `creationdate` of a video, the container's `creation_time` in UTC,
what Google Takeout writes beside the file, in UTC, the file's own time."""
BELOW_NAME: tuple[DateSource, ...] = ("document", "creationdate", "creation_time", "takeout", "file")
"""The sources that give way to a date in the file's name."""

FIRST_YEAR, LAST_YEAR = 1826, 2100
"""A date outside is malformed: no photograph is older."""
ZEROS = (datetime(1904, 1, 1), datetime(1970, 1, 1))
"""QuickTime's and Unix's moment 0. A date within a day of one is what a device writes that has no clock."""


class Dated(NamedTuple):
    """A date in ISO 8601 and where it comes from."""

    captured_at: str
    source: DateSource

    def meta(self) -> dict[str, Any]:
        """As an item's metadata hold it."""
        return {"captured_at": self.captured_at, "date_source": self.source}


# As files write them

_OFFSET = r"(?:(?P<offset>Z|[+-][0-9]{2}'?:?(?:[0-9]{2}'?)?)(?:(?<=Z)00'?:?00'?)?)?"
_WRITTEN = re.compile(
    r"(?P<year>[0-9]{4})(?:(?P<mark>[-:/.])(?P<month>[0-9]{1,2})(?:(?P=mark)(?P<day>[0-9]{1,2})"
    r"(?:(?:T|\s+)(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?:[.,][0-9]+)?)?\s*"
    + _OFFSET
    + ")?)?)?"
    r"(?![0-9])"
)
_COMPACT = re.compile(
    r"(?:D:)?(?P<year>[0-9]{4})(?:(?P<month>[0-9]{2})(?:(?P<day>[0-9]{2})"
    r"(?:T?(?P<hour>[0-9]{2})(?P<minute>[0-9]{2})(?P<second>[0-9]{2})?\s*" + _OFFSET + ")?)?)?(?![0-9])"
)


def parse_written(value: Any, *, offset: Any = None) -> str | None:
    """A date as metadata state it, in ISO 8601: EXIF (`2015:06:01 10:00:00`), ISO 8601, PDF (`D:20150601100000+02'00'`), IPTC (`20150601`).

    Args:
        value: text or ASCII bytes; anything else counts as malformed.
        offset: the zone, where it is stated apart (`+02:00`); a malformed one is ignored.

    Returns:
        Local time with its offset, where there is one, or as much of it as is stated. None for a zero or malformed date.
    """
    stated = _as_text(value)
    if not stated[:1].isdigit() and not stated.startswith("D:"):
        return None
    match = _WRITTEN.match(stated) or _COMPACT.match(stated)
    if match is None:
        return None
    parts = match.groupdict()
    if parts["day"] is None:
        return _partial(parts["year"], parts["month"])
    return _moment(
        *(int(parts[name] or 0) for name in ("year", "month", "day")),
        clock=None if parts["hour"] is None else (parts["hour"], parts["minute"], parts["second"] or "0"),
        offset=parts["offset"] or _as_text(offset),
    )


def _as_text(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    return " ".join(value.replace("\0", " ").split()) if isinstance(value, str) else ""


def _partial(year: str, month: str | None) -> str | None:
    if _moment(int(year), int(month or 1), 1) is None:
        return None
    return year if month is None else f"{year}-{int(month):02}"


def _moment(
    year: int, month: int, day: int, *, clock: tuple[str, str, str] | None = None, offset: str = ""
) -> str | None:
    hour, minute, second = map(int, clock or (0, 0, 0))
    try:
        moment = datetime(year, month, day, hour, minute, second)
    except ValueError:
        return None
    if not FIRST_YEAR <= year <= LAST_YEAR or any(abs(moment - zero) < timedelta(days=1) for zero in ZEROS):
        return None
    if clock is None:
        return moment.date().isoformat()
    try:
        return datetime.fromisoformat(moment.isoformat() + offset.replace("'", "").rstrip(":")).isoformat()
    except ValueError:
        return moment.isoformat()


def first_written(values: Iterable[Any]) -> str | None:
    """The first of these that is a date."""
    return next(filter(None, map(parse_written, values)), None)


# In a file's name

_IN_NAME = re.compile(
    r"(?<![0-9])(?<![0-9][a-f])(?P<year>(?:19|20)[0-9]{2})(?P<mark>[-_.]?)(?P<month>[0-9]{2})(?P=mark)(?P<day>[0-9]{2})"
    r"(?:(?:[-_T]|,?\s+(?:(?:at|um|à|alle|a las|om|kl\.?)\s+)?)?"
    r"(?P<hour>[0-9]{2}|[0-9](?=[-_.:]))(?P<dot>[-_.:]?)(?P<minute>[0-9]{2})(?P=dot)(?P<second>[0-9]{2})(?:[0-9]{3})?"
    r"(?:\s*(?P<half>[AaPp])\.?[Mm]\b)?)?(?![0-9])"
)
_UTC_NAMES = ("PXL_",)
"""Google's camera names its files by UTC."""


def date_in_name(name: str) -> str | None:
    """The first date in a file's name, in ISO 8601, or None.

    Year, month and day in this order, with or without separators and a time: WhatsApp (`IMG-20190305-WA0001`), Signal
    (`signal-2018-08-21-100217`), Android (`IMG_20150601_100000`), screenshots of all systems, and dates that people write.
    """
    stem = name.rpartition(".")[0] or name
    for match in _IN_NAME.finditer(stem):
        parts = match.groupdict()
        clock = None
        if parts["hour"] is not None:
            hour = int(parts["hour"])
            if parts["half"] and 1 <= hour <= 12:
                hour = hour % 12 + (12 if parts["half"] in "Pp" else 0)
            clock = (str(hour), parts["minute"], parts["second"])
        day = tuple(int(parts[part]) for part in ("year", "month", "day"))
        offset = "+00:00" if stem.upper().startswith(_UTC_NAMES) else ""
        # Digits that are no time of day are a number behind the date.
        if found := _moment(*day, clock=clock, offset=offset) or _moment(*day):
            return found
    return None


# How they compare


def wall_s(captured_at: str) -> float | None:
    """Seconds from 1970-01-01T00:00:00 to a date in ISO 8601, both on the same clock: its offset is ignored. None if malformed."""
    padded = captured_at[:19] + "0000-01-01T00:00:00"[len(captured_at) :]
    try:
        return float(timegm(datetime.fromisoformat(padded).timetuple()))
    except ValueError:
        return None


def wall_text(moment: date | datetime) -> str:
    """A day (its beginning) or moment as the 19 characters that dates of items are compared with."""
    if not isinstance(moment, datetime):
        moment = datetime.combine(moment, time.min)
    return moment.replace(tzinfo=None, microsecond=0).isoformat()


def instant_s(moment: date | datetime) -> float:
    """Seconds since the epoch; without a time zone it is local time. Never raises for a date that exists."""
    if not isinstance(moment, datetime):
        moment = datetime.combine(moment, time.min)
    try:
        return moment.timestamp()
    except (ValueError, OverflowError, OSError):  # year 1 or 9999, moved by the zone
        return (moment.replace(tzinfo=None) - datetime(1970, 1, 1)).total_seconds()


# As people ask for them

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MONTH_NAMES = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december",
)  # fmt: skip
_WEEKDAY_NAMES = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_NUMBERS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}


def parse_asked(text: str, *, today: date | None = None) -> date | datetime:
    """The day, or moment, that people name; of a span (a year, a month, "last week") its first day.

    Takes 2025, 2025-03, 2025-03-31, 2025-03-31T14:30, today, yesterday, "this week", "last month", "last friday", "3 days ago", may,
    "may 2024". A month or weekday alone is the latest one that has begun.

    Raises:
        ValueError: none of these.
    """
    today = today or date.today()
    words = re.sub(r"[_\s]+|(?<=[a-z])-(?=[a-z])", " ", text.strip().lower()).split()
    asked = " ".join(words)
    if re.fullmatch(r"[0-9]{1,4}(-[0-9]{1,2}){0,2}", asked):
        year, month, day = [*map(int, asked.split("-")), 1, 1][:3]
        return date(year, month, day)
    if re.match(r"[0-9]{4}-", asked):
        return datetime.fromisoformat(text.strip())
    days = {"today": 0, "yesterday": 1, "the day before yesterday": 2, "tomorrow": -1}
    if asked in days:
        return today - timedelta(days=days[asked])
    if words[-1:] == ["ago"] and len(words) == 3:
        count = _NUMBERS.get(words[0]) or int(words[0])
        return _back(today, count, words[1].removesuffix("s"))
    if words[:1] in (["this"], ["last"]) and len(words) == 2:
        is_last = words[0] == "last"
        if words[1] in ("week", "month", "year"):
            return _begin(_back(today, int(is_last), words[1]), words[1])
        if (weekday := _index(words[1], _WEEKDAYS, _WEEKDAY_NAMES)) is not None:
            return today - timedelta(days=((today - timedelta(days=is_last)).weekday() - weekday) % 7 + is_last)
        words = words[1:]
    if len(words) == 1 and (weekday := _index(words[0], _WEEKDAYS, _WEEKDAY_NAMES)) is not None:
        return today - timedelta(days=(today.weekday() - weekday) % 7)
    if (month_at := _index(words[0] if words else "", _MONTHS, _MONTH_NAMES)) is not None:
        if len(words) == 1:
            return date(today.year - (month_at + 1 > today.month), month_at + 1, 1)
        if len(words) == 2 and re.fullmatch("[0-9]{4}", words[1]):
            return date(int(words[1]), month_at + 1, 1)
    raise ValueError(f"{text!r} is no date")


def _index(word: str, short: tuple[str, ...], full: tuple[str, ...]) -> int | None:
    for names in (short, full):
        if word in names:
            return names.index(word)
    return None


def _back(day: date, count: int, unit: str) -> date:
    """So many units before `day`; of a shorter month its last day. Raises ValueError for another unit, or before year 1."""
    try:
        if unit in ("day", "week"):
            return day - timedelta(days=count * (7 if unit == "week" else 1))
        if unit not in ("month", "year"):
            raise ValueError(f"{unit!r} is no unit of time")
        year, month = divmod(day.year * 12 + day.month - 1 - count * (12 if unit == "year" else 1), 12)
        return date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))
    except OverflowError as error:
        raise ValueError(f"{count} {unit}s before {day} is no date") from error


def _begin(day: date, unit: str) -> date:
    if unit == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if unit == "month" else day.replace(month=1, day=1)
