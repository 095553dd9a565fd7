"""Reading: how people write shares and amounts, "50%", "1.5M" or "2MiB", and what makes no sense."""

import contextlib
import re
from collections.abc import Mapping
from typing import Any

from secateur.errors import RequestError


def read_share(word: str, given: Any, *, below_one: bool = True) -> float:
    """Read a share, as a number or a text such as "50%".

    Args:
        word: What was asked for, for messages.
        given: What the user wrote.
        below_one: Whether 1 is too much.

    Raises:
        RequestError: It is no share.

    Example:
        >>> read_share("ratio", "25 %"), read_share("min_keep", 1, below_one=False)
        (0.25, 1.0)
    """
    number = re.fullmatch(r"\s*([0-9.]+)\s*(%?)\s*", given) if isinstance(given, str) else None
    share = given
    if number is not None:
        with contextlib.suppress(ValueError):
            share = float(number[1]) / (100 if number[2] else 1)
    is_number = not isinstance(share, bool) and hasattr(share, "__float__")
    if not is_number or not 0 <= share <= 1 or (below_one and share == 1):
        shown = f"{given:g}" if is_number and not isinstance(given, str) else repr(given)
        allowed = "0 <= ratio < 1" if below_one else "0 to 1"
        raise RequestError(f"{word} is {shown}", [f"allowed: {allowed}"], "pass a share such as 0.5 or '50%'")
    return float(share)


def read_shares(word: str, given: Any, *, below_one: bool = True) -> dict[Any, float]:
    """Read a share for each pattern of groups, or for each module or parameter of the model.

    Raises:
        RequestError: It is no mapping, or holds what is no share.

    Example:
        >>> read_shares("channels", {"layer4.*": "80%"})
        {'layer4.*': 0.8}
    """
    if not isinstance(given, Mapping):
        raise RequestError(f"{word} is {given!r}", do="map patterns of groups to shares")
    return {
        part: read_share(f"{word}['{shown(part)}']", share, below_one=below_one)
        for part, share in given.items()
    }


def shown(part: Any) -> str:
    """A pattern as it is, a module or parameter by its class: written out it may be long."""
    return str(part) if isinstance(part, (str, int)) else type(part).__name__


def read_amount(
    word: str, given: Any, factors: Mapping[str, float], example: str
) -> tuple[float, bool | None]:
    """Read an amount or a share of one.

    Args:
        word: What was asked for, for messages.
        given: What the user wrote: a number, or a text that may end with "%" or a unit.
        factors: The units it may have, and what each stands for.
        example: How an amount is written, for messages.

    Returns:
        The number, and whether it was written as a share; None where nothing says so.

    Raises:
        RequestError: It is none.

    Example:
        >>> read_amount("macs", "1.5M", {"M": 1e6}, "'1.5M'"), read_amount("macs", "40%", {}, "'1.5M'")
        ((1500000.0, False), (0.4, True))
    """
    do = f"pass a number, or a text such as '50%'{example}"
    if isinstance(given, str):
        with contextlib.suppress(ValueError):
            return float(given), None
        found = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*(%|[a-zA-Z]+)\s*", given)
        if found is not None and found[2] in {"%", *factors}:
            with contextlib.suppress(ValueError):
                is_share = found[2] == "%"
                return float(found[1]) * (0.01 if is_share else factors[found[2]]), is_share
        raise RequestError(f"{word} is '{given}'", do=do)
    if isinstance(given, bool) or not hasattr(given, "__float__"):
        raise RequestError(f"{word} is {given!r}", do=do)
    return float(given), None
