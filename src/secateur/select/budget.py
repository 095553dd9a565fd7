"""Budgets: how much may stay, and how well a choice of widths meets it."""

import contextlib
import fnmatch
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from secateur.coupling import Groups
from secateur.errors import RequestError
from secateur.plans.parts import Request

KINDS = ("ratio", "macs", "params", "size_bytes", "memory", "latency_ms", "channels", "keep")

_UNITS = {"macs": "MACs", "params": "parameters", "size_bytes": "bytes", "memory": "bytes"}
_FACTORS = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40
}  # fmt: skip


@dataclass(frozen=True)
class Budget:
    """One request.

    Attributes:
        kind: "ratio", "macs", "params", "size_bytes", "memory", "latency_ms", "channels" or "keep".
        value: For "ratio" the share of channels to remove; for "channels" and "keep" 0; else what may stay:
            a share or an amount.
        is_share: The value is a share of what the uncut model has.
        channels: For "channels", the share to remove by group pattern.
        keep: For "keep", the indices to keep by group name.

    Example:
        >>> print(Budget.of(macs=0.5), Budget.of(memory="2MiB"), Budget.of(latency_ms="40%"))
        macs=0.5 memory=2,097,152 latency_ms=40%
    """

    kind: str
    value: float
    is_share: bool = False
    channels: Mapping[str, float] = field(default_factory=dict)
    keep: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, **given: Any) -> "Budget":
        """Read the one budget that was given.

        A number up to 1.0 is a share, except for `latency_ms`, whose numbers are milliseconds. A text may say
        "50%" for a share and, for bytes and counts, "1.5M", "2MB" or "2MiB".

        Raises:
            RequestError: None or several were given, or the value is out of range.
        """
        asked = {kind: value for kind, value in given.items() if value is not None}
        if len(asked) != 1:
            raise RequestError(
                f"{len(asked)} budgets were given: {', '.join(asked) or 'none'}",
                do=f"pass exactly one of {', '.join(KINDS)}",
            )
        ((kind, value),) = asked.items()
        if kind in ("keep", "channels") and not isinstance(value, Mapping):
            do = "map names of groups to indices" if kind == "keep" else "map patterns of groups to shares"
            raise RequestError(f"{kind} is {value!r}", do=do)
        if kind == "keep":
            return cls(kind, 0.0, keep={name: tuple(indices) for name, indices in value.items()})
        if kind == "channels":
            for pattern, share in value.items():
                _require_share(f"channels['{pattern}']", share)
            return cls(kind, 0.0, channels=dict(value))
        if kind == "ratio":
            _require_share("ratio", value)
            return cls(kind, float(value))
        number, is_share = _amount(kind, value)
        if not 0 < number < math.inf:
            what = "a share or a count" if kind != "latency_ms" else "milliseconds, or a share such as '50%'"
            raise RequestError(f"{kind} is {value}", do=f"pass the {kind} that may stay: {what}")
        return cls(kind, number, (number <= 1 and kind != "latency_ms") if is_share is None else is_share)

    def target(self, whole: float) -> float:
        """What may stay, in units of the budget, given the uncut model's.

        Raises:
            RequestError: More is asked to stay than there is.
        """
        if self.kind == "ratio":
            return (1 - self.value) * whole
        target = self.value * whole if self.is_share else self.value
        if target > whole:
            raise RequestError(
                f"{self.kind} budget is {self.show(target)}, the uncut model has {self.show(whole)}",
                do="ask for less than the model has",
            )
        return target

    @property
    def asks_for_nothing(self) -> bool:
        """Whether all may stay."""
        if self.kind in ("channels", "latency_ms"):
            return self.kind == "latency_ms" and self.is_share and self.value == 1
        return self.value == (0 if self.kind in ("ratio", "keep") else 1)

    @property
    def unit(self) -> str:
        """What the budget counts."""
        return "ms" if self.kind == "latency_ms" else _UNITS.get(self.kind, "channels")

    def show(self, amount: float) -> str:
        """An amount in the budget's units, as a text."""
        return f"{amount:.4g}" if self.kind == "latency_ms" else f"{amount:,.0f}"

    def share_for(self, groups: Groups, name: str) -> float | None:
        """The share of a group's channels to remove; None where no pattern fits."""
        fitting = [share for pattern, share in self.channels.items() if groups[name].matches(pattern)]
        return max(fitting) if fitting else None

    def require_patterns_fit(self, groups: Groups, free: Collection[str]) -> None:
        """Refuse patterns that fit no group, or none that can be cut.

        Args:
            groups: All groups.
            free: The names of those that can be cut.

        Raises:
            RequestError: Naming the pattern.
        """
        for pattern in self.channels:
            fitting = [group for group in groups if group.matches(pattern)]
            if not fitting:
                near = [group.name for group in groups if fnmatch.fnmatch(group.name, f"*{pattern}*")]
                raise RequestError(
                    f"channels pattern '{pattern}' fits no group",
                    [f"groups: {', '.join((near or list(groups.by_name))[:8])}, ..."],
                    "give a group's name, or a pattern such as 'layer4.*'",
                )
            if not any(group.name in free for group in fitting):
                raise RequestError(
                    f"channels pattern '{pattern}' fits no group that can be cut",
                    [f"{group.name}: {group.reason or 'left alone'}" for group in fitting[:8]],
                    "lift the protection, choose another criterion, or leave the pattern out",
                )

    @property
    def request(self) -> Request:
        """The budget as a plan holds it."""
        if self.kind in ("channels", "keep"):
            parts = self.channels or {name: len(kept) for name, kept in self.keep.items()}
            return Request(kind=self.kind, parts=parts)
        return Request(kind=self.kind, value=self.value, is_share=self.is_share)

    def __str__(self) -> str:
        return str(self.request)


def _require_share(name: str, share: Any) -> None:
    if isinstance(share, bool) or not hasattr(share, "__float__"):
        raise RequestError(f"{name} is {share!r}", ["allowed: 0 <= ratio < 1"], "pass a share such as 0.5")
    if not 0 <= share < 1:
        raise RequestError(f"{name} is {share:g}", ["allowed: 0 <= ratio < 1"], "pass a share such as 0.5")


def _amount(kind: str, value: Any) -> tuple[float, bool | None]:
    """The number that was given, and whether it was written as a share; None where nothing says so."""
    do = f"pass a number, or a text such as '50%'{_example(kind)}"
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value), None
        found = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*(%|[kMGT]?i?B?|ms)\s*", value)
        word = found[2] if found else ""
        if found is None or (word == "ms") > (kind == "latency_ms") or not _fits(kind, word):
            raise RequestError(f"{kind} is '{value}'", do=do)
        try:
            number = float(found[1])
        except ValueError as error:
            raise RequestError(f"{kind} is '{value}'", do=do) from error
        if word == "%":
            return number / 100, True
        return number * _FACTORS[word.removesuffix("B") if word != "ms" else ""], False if word else None
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise RequestError(f"{kind} is {value!r}", do=do)
    return float(value), None


def _fits(kind: str, word: str) -> bool:
    if word in ("", "%"):
        return True
    if kind == "latency_ms":
        return word == "ms"
    bytes_asked = word.endswith("B") or "i" in word
    return word.removesuffix("B") in _FACTORS and (not bytes_asked or kind in ("size_bytes", "memory"))


def _example(kind: str) -> str:
    return {
        "size_bytes": ", '2MB' or '2MiB'",
        "memory": ", '2MB' or '2MiB'",
        "latency_ms": " or '2.5 ms'",
    }.get(kind, " or '1.5M'")
