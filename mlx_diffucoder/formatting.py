"""Sizes and durations as text: the one place that chooses units and digits. And text that a terminal can show."""

# Control characters would move the cursor or turn the direction of writing, and XML does not allow most of them.
_VISIBLE: dict[int, str] = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"}
_VISIBLE |= {ord("\r"): "", 127: "\u2421"}
_UNKNOWN = [
    *range(0x80, 0xA0),
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
    0x2028,
    0x2029,
    0xFFFE,
    0xFFFF,
    *range(0xD800, 0xE000),
]
_VISIBLE |= dict.fromkeys(_UNKNOWN, "\ufffd")


def visible(text: str) -> str:
    """A text whose control characters and bidirectional overrides are shown as symbols; line ends become line feeds.

    >>> visible("red\x1b[31m")
    'red␛[31m'
    """
    return text.translate(_VISIBLE)


def format_bytes(count: float) -> str:
    """A number of bytes in decimal units: MB below 1 GB and GB from there, with three digits.

    >>> format_bytes(15_231_000_000), format_bytes(10_300_000)
    ('15.2 GB', '10.3 MB')
    """
    return _three_digits(count / 1e9, "GB") if count >= 999.5e6 else _three_digits(count / 1e6, "MB")


def format_seconds(seconds: float) -> str:
    """A duration in seconds, below one second in milliseconds, with three digits.

    >>> format_seconds(12.345), format_seconds(0.0123)
    ('12.3 s', '12.3 ms')
    """
    return _three_digits(seconds, "s") if seconds >= 0.9995 else _three_digits(1e3 * seconds, "ms")


def format_spread(seconds: float, low: float, high: float) -> str:
    """A duration with the least and the most of its trials, all in the unit of the first.

    >>> format_spread(0.0123, 0.012, 0.0131)
    '12.30 ms (12.00 to 13.10)'
    """
    scale, unit = (1.0, "s") if seconds >= 0.9995 else (1e3, "ms")
    return f"{scale * seconds:.2f} {unit} ({scale * low:.2f} to {scale * high:.2f})"


def _three_digits(value: float, unit: str) -> str:
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {unit}"
