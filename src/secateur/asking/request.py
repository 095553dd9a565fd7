"""The request as a saved plan holds it: plain data, which prints as it was typed."""

import contextlib
import re
from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue, model_validator

from secateur.errors import RequestError
from secateur.plans.parts import Frozen
from secateur.select.budget import budget_of, budgets


class Request(Frozen):
    """What was asked for.

    Plans that were written before it was data hold it as it is printed, and are read too.

    Attributes:
        kind: The budget, as in `Account`; "count" for a number of blocks; else words.
        value: For "ratio" the share of channels to remove, for "count" the blocks to drop, else what may
            stay; None for words.
        is_share: What may stay is a share of what the uncut model has.
        parts: For "channels" the share to remove by group pattern, for "keep" how many stay by group; beside
            another budget the share to remove at most, by group pattern.
        options: The other words that decide what is cut, where they are not at their defaults.

    Example:
        >>> print(Request(kind="macs", value=0.5, is_share=True), Request(kind="nothing"))
        macs=0.5 nothing
        >>> print(Request(kind="ratio", value=0.5, options={"target": "ncnn"}))
        ratio=0.5 for ncnn
        >>> Request.model_validate("latency_ms=40%").value
        0.4
    """

    kind: str = ""
    value: float | None = None
    is_share: bool = False
    parts: Mapping[str, float] = {}
    options: Mapping[str, JsonValue] = {}

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, given: Any) -> Any:
        return _as_data(given) if isinstance(given, str) else given

    def __str__(self) -> str:
        if self.value is None and not self.parts:
            return self.kind
        words = budget_of(self.kind).words(self.value, self.is_share, self.parts)
        aim = f" for {self.options['target']}" if "target" in self.options else ""
        return f"{words}{aim}" if self.kind in budgets else f"{self.kind}{words}"


def _as_data(text: str) -> dict[str, Any]:
    """Read a request as older plans hold it, printed."""
    kind, _, rest = text.partition("=")
    if kind in budgets and rest.startswith("{"):
        pairs = (part.rpartition(":") for part in rest.strip("{}").split(", ") if part)
        return {"kind": kind, "parts": {name.strip(" '"): float(value) for name, _, value in pairs}}
    if kind in budgets:
        with contextlib.suppress(RequestError):
            read = budgets[kind].read(rest.replace(",", ""))
            return {"kind": kind, "value": read.value, "is_share": read.is_share}
    elif re.fullmatch(r"\d+(\.\d+)?", rest):
        return {"kind": kind, "value": float(rest)}
    return {"kind": text}
