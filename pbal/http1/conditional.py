"""Conditional requests (RFC 9110 section 13), for files."""

import calendar
import re
from datetime import date
from typing import Final

_MONTHS: Final = {name: number for number, name in enumerate(b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), 1)}
_MONTH: Final = rb"(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_TIME: Final = rb"([0-9]{2}):([0-9]{2}):([0-9]{2})"
_FIXDATE: Final = re.compile(rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), ([0-9]{2}) " + _MONTH + rb" ([0-9]{4}) " + _TIME + rb" GMT")
_RFC850: Final = re.compile(rb"[A-Z][a-z]{5,8}, ([0-9]{2})-" + _MONTH + rb"-([0-9]{2}) " + _TIME + rb" GMT")
_ASCTIME: Final = re.compile(rb"[A-Z][a-z]{2} " + _MONTH + rb" ([ 0-9][0-9]) " + _TIME + rb" ([0-9]{4})")
_ETAG: Final = re.compile(rb'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')


def parse_http_date(value: bytes) -> int | None:
    """Seconds since 1970 of any of the three forms of RFC 9110 section 5.6.7; None for anything else.

    A date the calendar does not have (31 February, the year 0) is none. Second 60 is the next minute's first.
    """
    if match := _FIXDATE.fullmatch(value):
        day, month, year, *clock = match.groups()
    elif match := _RFC850.fullmatch(value):
        day, month, year, *clock = match.groups()
        year = (b"19" if int(year) >= 70 else b"20") + year
    elif match := _ASCTIME.fullmatch(value):
        month, day, *clock, year = match.groups()
    else:
        return None
    hour, minute, second = (int(part) for part in clock)
    if hour > 23 or minute > 59 or second > 60:
        return None
    try:
        found = date(int(year), _MONTHS[month], int(day.strip(b" ")))
    except ValueError:
        return None
    return calendar.timegm((*found.timetuple()[:3], hour, minute, second))


def etag_for(mtime_ns: int, size: int, coding: bytes = b"") -> bytes:
    """A strong validator of a file's content. One that has a content coding is another representation than what it was made of."""
    return b'"%x-%x-%b"' % (mtime_ns, size, coding) if coding else b'"%x-%x"' % (mtime_ns, size)


def _named(value: bytes, etag: bytes, *, weakly: bool) -> bool:
    """Whether a list of entity tags names `etag`, by weak or strong comparison (section 8.8.3.2)."""
    if value.strip(b" \t") == b"*":
        return True
    own = etag.removeprefix(b"W/")
    if not own or (own is not etag and not weakly):
        return False
    return any(tag == own and (weakly or not weak) for weak, tag in _ETAG.findall(value))


def evaluate(method: bytes, fields: dict[bytes, bytes], etag: bytes, mtime: int | None) -> int:
    """200, 304 or 412, in the order of section 13.2.2. A date that cannot be read is ignored.

    `etag` is as in ETag, b"" where there is none; `mtime` is None where it is not known.
    """
    if b"if-match" in fields:
        if not _named(fields[b"if-match"], etag, weakly=False):
            return 412
    elif b"if-unmodified-since" in fields and mtime is not None:
        since = parse_http_date(fields[b"if-unmodified-since"])
        if since is not None and mtime > since:
            return 412
    if b"if-none-match" in fields:
        if _named(fields[b"if-none-match"], etag, weakly=True):
            return 304 if method in (b"GET", b"HEAD") else 412
    elif b"if-modified-since" in fields and method in (b"GET", b"HEAD") and mtime is not None:
        since = parse_http_date(fields[b"if-modified-since"])
        if since is not None and mtime <= since:
            return 304
    return 200


def range_holds(value: bytes, etag: bytes, mtime: int | None, now: float) -> bool:
    """Whether If-Range lets a range be sent: by a strong comparison, of the tag or of the date (sections 13.1.5 and 8.8.2.2).

    A file that changed less than a second ago may have changed again in that second, so its date is a weak one.
    """
    match = _ETAG.fullmatch(value)
    if match is not None:
        return match[1] is None and value == etag
    since = parse_http_date(value)
    return since is not None and since == mtime and now - mtime >= 1
