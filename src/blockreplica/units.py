"""How sizes, durations and times are written for people, and read back from them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from .errors import UsageError

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
_BINARY = {"": 1, "b": 1, "k": KIB, "m": MIB, "g": GIB, "t": TIB}
_FACTORS = _BINARY | {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h|d|w|y)\s*")
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes in a size such as `64KiB`, `4M`, `1.5 GiB`, `512`; K and KiB are 1024, KB is 1000.

    Raises UsageError for anything else.
    """
    match = _SIZE.fullmatch(text)
    unit = match[2].lower().replace("ib", "") if match else ""
    if match is None or unit not in _FACTORS:
        raise UsageError(f"size {text!r}: wanted a number with B, KiB, MiB, GiB or TiB, such as 64KiB")
    return int(float(match[1]) * _FACTORS[unit])


def format_size(count: int) -> str:
    """`count` bytes in the largest binary unit that leaves a number of at least one."""
    for unit, name in ((TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}".replace(".0 ", " ")
    return f"{count} B"


def format_duration(seconds: float) -> str:
    """A duration with two units at the most: `0.42 s`, `3 min 10 s`, `2 h 5 min`, `3 d 4 h`."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = int(seconds)
    for unit, name, part, part_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // part} {part_name}"
    raise AssertionError(seconds)


def parse_duration(text: str) -> float:
    """Seconds in a duration such as `90s`, `15min`, `12h`, `7d`, `4w`, `1y` (365 days). Raises UsageError."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise UsageError(f"duration {text!r}: wanted a number with s, min, h, d, w or y, such as 7d")
    return float(match[1]) * _SECONDS[match[2]]


def format_time(seconds: float) -> str:
    """Seconds since 1970 as RFC 3339 in UTC with microseconds, such as 2026-01-02T03:04:05.000006Z."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def parse_time(text: str) -> float:
    """The reverse of `format_time`; raises UsageError for anything that is not RFC 3339."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise UsageError(f"time {text!r}: wanted RFC 3339, such as 2026-01-02T03:04:05Z") from None
