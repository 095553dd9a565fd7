"""What a plan is made of: expressions over groups, the request, what each group keeps, and why."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Frozen(BaseModel):
    """A part of a plan: it may not change, and a file with unknown fields is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Factors(Frozen):
    """A row-major product of expressions."""

    product: tuple["Spec", ...]


class Terms(Frozen):
    """A concatenation of expressions."""

    sum: tuple["Spec", ...]


Spec: TypeAlias = int | str | Factors | Terms


class Request(Frozen):
    """What was asked for.

    Plans that were written before it was data hold it as it is printed, and are read too.

    Attributes:
        kind: The budget, as in `Account`; "count" for a number of blocks; "keep"; else words.
        value: For "ratio" the share of channels to remove, for "count" the blocks to drop, else what may
            stay; None for words.
        is_share: What may stay is a share of what the uncut model has.
        parts: For "channels" the share to remove by group pattern, for "keep" how many stay by group.

    Example:
        >>> print(Request(kind="macs", value=0.5, is_share=True), Request(kind="nothing"))
        macs=0.5 nothing
        >>> Request.model_validate("latency_ms=40%").value
        0.4
    """

    kind: str = ""
    value: float | None = None
    is_share: bool = False
    parts: Mapping[str, float] = {}

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, given: Any) -> Any:
        return _as_data(given) if isinstance(given, str) else given

    def __str__(self) -> str:
        if self.kind == "channels":
            return f"channels={dict(self.parts)}"
        if self.kind == "keep":
            return f"keep={{{', '.join(f'{name}: {kept:g}' for name, kept in self.parts.items())}}}"
        if self.value is None:
            return self.kind
        if self.kind == "latency_ms" and self.is_share:
            return f"latency_ms={100 * self.value:g}%"
        return f"{self.kind}={self.value:,.0f}" if self.value > 1e5 else f"{self.kind}={self.value:g}"


def _as_data(text: str) -> dict[str, Any]:
    """Read a request as older plans hold it, printed."""
    kind, _, rest = text.partition("=")
    if kind in ("channels", "keep"):
        parts = re.findall(r"'?([^{ ][^,]*?)'?: ([\d.e-]+)[,}]", rest)
        return {"kind": kind, "parts": {name: float(value) for name, value in parts}}
    number = re.fullmatch(r"([\d,]+(?:\.\d+)?(?:e[+-]\d+)?)(%?)", rest)
    if number is None:
        return {"kind": text}
    value = float(number[1].replace(",", "")) / (100 if number[2] else 1)
    is_share = bool(number[2]) or (value <= 1 and kind not in ("ratio", "count", "latency_ms"))
    return {"kind": kind, "value": value, "is_share": is_share}


class Why(Frozen):
    """Why a group has its width.

    Attributes:
        decided: What decided it: "budget", "floor", "rounding", "asked", or "whole" where nothing had to go.
        floor: Channels that stay in any case; None, as all that follows, where nothing was decided.
        unrounded: Channels that would stay without rounding.
        rounding: Why the width was rounded; empty if it was not.
        highest_removed: The best score among the removed channels; None if none is removed.
        lowest_kept: The worst score among the kept ones.
        step: Channels that come or go at once.
        saves: What the budget would save if the next step went, too; None at the floor.
        costs: What it would cost to give one step back; None if the group is whole.
        together: Groups that must keep equal counts with this one.
    """

    decided: str
    floor: int | None = None
    unrounded: int | None = None
    rounding: str = ""
    highest_removed: float | None = None
    lowest_kept: float | None = None
    step: int | None = None
    saves: float | None = None
    costs: float | None = None
    together: tuple[str, ...] = ()


class Account(Frozen):
    """How a budget was met.

    Attributes:
        kind: The budget: "ratio", "macs", "params", "size_bytes", "memory", "latency_ms" or "channels".
        whole: What the uncut model has, in the budget's units.
        wanted: What should stay.
        reached: What stays, as it was counted or predicted.
        criterion: What scored the channels.
        scope: How channels of different groups compare.
        measured: For a latency, the measured median of the cut model; None for what is counted.
        notes: What else there is to say of a prediction.
    """

    kind: str
    whole: float
    wanted: float
    reached: float
    criterion: str
    scope: str
    measured: float | None = None
    notes: tuple[str, ...] = ()


class PlanGroup(Frozen):
    """What stays of one group.

    Attributes:
        name: The group.
        size: Its channels before.
        keep: The indices that stay, ascending.
        members: The tensor dims that hold it.
        why: Why it has this width; None where no budget chose it.
    """

    name: str
    size: Annotated[int, Field(ge=1)]
    keep: tuple[Annotated[int, Field(ge=0)], ...]
    members: tuple[str, ...] = ()
    why: Why | None = None
