"""How numbers read: counts, bytes, times, shares and ratios are formatted here and nowhere else.

Prefixes are decimal (k = 1000). A value that is not known reads "-".
"""

import math
from collections.abc import Sequence

UNKNOWN = "-"
PREFIXES = ("", "k", "M", "G", "T", "P")


def count(number: float) -> str:
    """Format a count: exact below ten thousand, else two decimals and a prefix.

    Example:
        >>> count(1797), count(20_040_522), count(999_999)
        ('1,797', '20.04 M', '1.00 M')
    """
    if abs(number) < 10_000:
        return f"{number:,.0f}"
    return _with_prefix(number, 2)


def size(number_bytes: float) -> str:
    """Format a size in bytes with one decimal.

    Example:
        >>> size(80_312_000), size(512)
        ('80.3 MB', '512 B')
    """
    if abs(number_bytes) < 1000:
        return f"{number_bytes:.0f} B"
    return f"{_with_prefix(number_bytes, 1)}B"


def milliseconds(time_ms: float | None) -> str:
    """Format a time with about three digits.

    Example:
        >>> milliseconds(1.8349), milliseconds(18.349), milliseconds(1834.9), milliseconds(None)
        ('1.83 ms', '18.3 ms', '1,835 ms', '-')
    """
    return UNKNOWN if time_ms is None else f"{aligned([time_ms])[0]} ms"


def percent(share: float | None) -> str:
    """Format a share as per cent with two decimals.

    Example:
        >>> percent(0.98611), percent(None)
        ('98.61 %', '-')
    """
    return UNKNOWN if share is None else f"{100 * share:.2f} %"


def points(before: float, after: float) -> str:
    """Format the difference of two shares in percentage points, with its sign.

    Example:
        >>> points(0.9861, 0.9833), points(0.5, 0.5)
        ('-0.28 points', '±0.00 points')
    """
    text = f"{100 * (after - before):+.2f}"
    return f"{'±0.00' if text in ('+0.00', '-0.00') else text} points"


def ratio(before: float, after: float) -> str:
    """Format how many times larger `before` is than `after`.

    Example:
        >>> ratio(20.04, 2.18), ratio(1.04, 1.0), ratio(300, 2), ratio(1, 0)
        ('9.2x', '1.04x', '150x', '-')
    """
    if not after or not math.isfinite(before / after):
        return UNKNOWN
    times = before / after
    decimals = 2 if 0.95 < times < 1.05 else 0 if times >= 99.95 else 1
    return f"{times:,.{decimals}f}x"


def change(before: float, after: float, less: str, more: str) -> str:
    """Say in which direction, and how far, a quantity moved.

    Args:
        before: The quantity at first.
        after: The quantity now.
        less: The word when it fell: "smaller", "fewer", "faster".
        more: The word when it rose: "larger", "more", "slower".

    Example:
        >>> change(4.1, 2.05, "faster", "slower"), change(2.0, 2.5, "faster", "slower")
        ('2.0x faster', '1.2x slower')
        >>> change(7, 7, "smaller", "larger")
        'unchanged'
    """
    times = ratio(max(before, after), min(before, after))
    if before == after or times == "1.00x":
        return "unchanged"
    if times == UNKNOWN:
        return UNKNOWN
    return f"{times} {less if before > after else more}"


def deviation(relative_error: float) -> str:
    """Format a relative error with two digits.

    Example:
        >>> deviation(1.284e-15), deviation(0.0), deviation(float("nan"))
        ('1.3e-15', '0', 'nan')
    """
    return "0" if relative_error == 0 else f"{relative_error:.1e}"


def scaled(values: Sequence[float]) -> tuple[str, tuple[str, ...]]:
    """Format a column of counts or bytes on one common scale, so that its figures can be compared.

    The largest value sets the prefix, one step lower when the smallest would vanish.

    Returns:
        The prefix for the header, and one cell per value.

    Example:
        >>> scaled([20_040_522, 2_250_000])
        ('M', ('20.04', '2.25'))
        >>> scaled([2_359_296, 864])
        ('k', ('2,359.3', '0.9'))
    """
    prefix, factor = prefix_of(values)
    if factor == 1 and max(map(abs, values), default=0) < 10_000:
        return "", tuple(f"{value:,.0f}" for value in values)
    decimals = 2 if max(map(abs, values)) < 1000 * factor else 1 if factor > 1 else 0
    return prefix, tuple(f"{value / factor:,.{decimals}f}" for value in values)


def prefix_of(values: Sequence[float]) -> tuple[str, int]:
    """Find the prefix on which values can be compared, and what it stands for.

    Example:
        >>> prefix_of([20_040_522, 2_250_000]), prefix_of([0.5, 20])
        (('M', 1000000), ('', 1))
    """
    sizes = [abs(value) for value in values if value]
    if not sizes or max(sizes) < 10_000:
        return "", 1
    step = min(int(math.log10(max(sizes)) // 3), len(PREFIXES) - 1)
    if min(sizes) < 0.1 * 1000**step:
        step -= 1
    return PREFIXES[step], 1000**step


def aligned(values: Sequence[float | None]) -> tuple[str, ...]:
    """Format a column of times with the decimals that its smallest value needs for three digits.

    Example:
        >>> aligned([12.345, None, 1.2044])
        ('12.35', '-', '1.20')
    """
    known = [abs(value) for value in values if value]
    smallest = min(known, default=1.0)
    decimals = 0 if smallest >= 99.95 else 1 if smallest >= 9.995 else 2
    return tuple(UNKNOWN if value is None else f"{value:,.{decimals}f}" for value in values)


def _with_prefix(number: float, decimals: int) -> str:
    for prefix in PREFIXES[:-1]:
        if abs(round(number, decimals)) < 1000:
            return f"{number:.{decimals}f} {prefix}"
        number /= 1000
    return f"{number:,.{decimals}f} {PREFIXES[-1]}"
