"""Sizes and durations as text: the one place that chooses units and digits."""


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
