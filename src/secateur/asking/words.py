"""The words of a request as type checkers and `help` show them."""

import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from inspect import Parameter
from textwrap import wrap
from typing import TypedDict, TypeVar

from secateur.asking.ask import Ask
from secateur.coupling.protect import Protected
from secateur.score.criterion import Criterion, Scorer
from secateur.select.budget import budgets
from secateur.select.floors import MinKeep

F = TypeVar("F", bound=Callable[..., object])

_ENTRY = re.compile(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", re.MULTILINE)
_MARK = re.compile(r"^( *)\*\*words: .*(?:\n\1 +.*)*", re.MULTILINE)


class PlanWords(TypedDict, total=False):
    """What decides which channels stay; a budget that is registered elsewhere comes in an `Ask`."""

    ratio: float | str | Mapping[str, float | str] | None
    macs: float | str | None
    params: float | str | None
    size_bytes: float | str | None
    memory: float | str | None
    latency_ms: float | str | None
    channels: Mapping[Protected, float | str] | Mapping[str, float | str] | None
    keep: Mapping[Protected, Sequence[int]] | Mapping[str, Sequence[int]] | None
    criterion: str | Scorer | Criterion | None
    scope: str | None
    round_to: int
    target: str | None
    min_keep: MinKeep
    max_ratio: float | str
    uniform: bool
    protect: Protected | Sequence[Protected]
    axes: str
    corrections: bool
    seed: int
    state: Collection[str] | None
    outputs: Collection[str | int] | None


class Words(PlanWords, total=False):
    """All words of a request."""

    recover: str | Sequence[str] | None
    search: int | None
    depth: bool
    check: bool


def explained() -> dict[str, tuple[str, object]]:
    """Each word with what it means and its default: the registered budgets, then the fields of `Ask`.

    Example:
        >>> explained()["round_to"]
        ('Kept counts are rounded up to a multiple of this; 8 suits most hardware.', 1)
    """
    told = {name: " ".join(text.split()) for name, text in _ENTRY.findall(Ask.__doc__ or "")}
    options = {field.name: field.default for field in fields(Ask) if field.name != "budget"}
    return {
        **{word: (budget.help(), None) for word, budget in budgets.items()},
        **{name: (told.get(name, ""), default) for name, default in options.items()},
    }


def takes(words: type) -> Callable[[F], F]:
    """Show the words that a function takes in its signature and under `**words` of its docstring.

    Args:
        words: `Words` or a part of it.
    """

    def show(function: F) -> F:
        known = explained()
        named = {name: known[name] for name in words.__annotations__}
        signature = inspect.signature(function)
        own = [one for one in signature.parameters.values() if one.kind is not Parameter.VAR_KEYWORD]
        added = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=words.__annotations__[name])
            for name, (_, default) in named.items()
        ]
        function.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        lines = [
            "\n".join(wrap(f"{name}: {meaning}", 110, initial_indent=" " * 8, subsequent_indent=" " * 12))
            for name, (meaning, _) in named.items()
        ]
        function.__doc__ = _MARK.sub(lambda _: "\n".join(lines), function.__doc__ or "")
        return function

    return show
