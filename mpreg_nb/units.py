"""Sizes and times as people read them."""


def size(size_bytes: int) -> str:
    """Return a size in B, kB, MB or GB, powers of ten.

    >>> size(5), size(812), size(45_000), size(3_200_000), size(1_000_000_000)
    ('5 B', '0.8 kB', '45.0 kB', '3.2 MB', '1.0 GB')
    """
    if size_bytes < 100:
        return f"{size_bytes} B"
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes / 1e3:.1f} kB"


def duration(ms: float) -> str:
    """Return a time with about three digits.

    >>> duration(0.34), duration(12.3), duration(999.6), duration(83_400)
    ('0.34 ms', '12.3 ms', '1.00 s', '1 min 23 s')
    """
    if ms < 10:
        return f"{ms:.2f} ms"
    if ms < 100:
        return f"{ms:.1f} ms"
    if ms < 999.5:
        return f"{ms:.0f} ms"
    if ms < 10_000:
        return f"{ms / 1e3:.2f} s"
    if ms < 59_950:
        return f"{ms / 1e3:.1f} s"
    minutes, seconds = divmod(round(ms / 1e3), 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s"
    return f"{minutes // 60} h {minutes % 60} min"


def count(number: int, what: str, plural: str = "") -> str:
    """Return a number with the word for what it counts.

    >>> count(1, "node"), count(1200, "call")
    ('1 node', '1,200 calls')
    """
    return f"{number:,} {what if number == 1 else plural or what + 's'}"
