"""Budgets: how much may stay, and how well a choice of widths meets it."""

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from secateur.couple import Groups
from secateur.errors import RequestError

_KINDS = ("ratio", "macs", "params", "channels", "keep")


@dataclass(frozen=True)
class Budget:
    """One request.

    Attributes:
        kind: "ratio", "macs", "params", "channels" or "keep".
        value: For "ratio" the share of channels to remove; for "macs" and "params" what may stay, as a
            share (up to 1.0) or a count (an integer above 1); 0 for "channels" and "keep".
        channels: For "channels", the share to remove by group pattern.
        keep: For "keep", the indices to keep by group name.

    Example:
        >>> print(Budget.of(macs=0.5))
        macs=0.5
    """

    kind: str
    value: float
    channels: Mapping[str, float] = field(default_factory=dict)
    keep: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, **given: Any) -> "Budget":
        """Read the one budget that was given.

        Raises:
            RequestError: None or several were given, or the value is out of range.
        """
        asked = {kind: value for kind, value in given.items() if value is not None}
        if len(asked) != 1:
            raise RequestError(
                f"{len(asked)} budgets were given: {', '.join(asked) or 'none'}",
                do=f"pass exactly one of {', '.join(_KINDS)}",
            )
        ((kind, value),) = asked.items()
        if kind == "keep":
            return cls(kind, 0.0, keep={name: tuple(indices) for name, indices in value.items()})
        if isinstance(value, Mapping):
            for pattern, share in value.items():
                _require_share(f"channels['{pattern}']", share)
            return cls(kind, 0.0, dict(value))
        if kind == "ratio":
            _require_share("ratio", value)
        elif not value > 0:
            raise RequestError(f"{kind} is {value}", do=f"pass the {kind} that may stay: a share or a count")
        return cls(kind, float(value))

    def target(self, whole: float) -> float:
        """What may stay, in units of the budget, given the uncut model's.

        Raises:
            RequestError: More is asked to stay than there is.
        """
        if self.kind == "ratio":
            return (1 - self.value) * whole
        target = self.value * whole if self.value <= 1 else self.value
        if target > whole:
            raise RequestError(
                f"{self.kind} budget is {target:,.0f}, the uncut model has {whole:,.0f}",
                do="ask for less than the model has",
            )
        return target

    def share_for(self, groups: Groups, name: str) -> float | None:
        """The share of a group's channels to remove; None where no pattern fits."""
        fitting = [share for pattern, share in self.channels.items() if groups[name].matches(pattern)]
        return max(fitting) if fitting else None

    def require_patterns_fit(self, groups: Groups) -> None:
        """Refuse patterns that fit no group.

        Raises:
            RequestError: Naming the pattern.
        """
        for pattern in self.channels:
            if not any(group.matches(pattern) for group in groups):
                near = [group.name for group in groups if fnmatch.fnmatch(group.name, f"*{pattern}*")]
                raise RequestError(
                    f"channels pattern '{pattern}' fits no group",
                    [f"groups: {', '.join((near or list(groups.by_name))[:8])}, ..."],
                    "give a group's name, or a pattern such as 'layer4.*'",
                )

    def __str__(self) -> str:
        if self.kind == "channels":
            return f"channels={dict(self.channels)}"
        if self.kind == "keep":
            return f"keep={{{', '.join(f'{name}: {len(kept)}' for name, kept in self.keep.items())}}}"
        return f"{self.kind}={self.value:g}"


def _require_share(name: str, share: float) -> None:
    if not 0 <= share < 1:
        raise RequestError(f"{name} is {share:g}", ["allowed: 0 <= ratio < 1"], "pass a share such as 0.5")
