"""One request: what may stay of a model, and how it is chosen.

Ask.of(macs=0.5, scope="local")   from the words that `prune`, `plan` and the command line take
ask.named(model)                  names where it holds modules and parameters
ask.request                       as a saved plan holds it
"""

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, Self

from pydantic import JsonValue
from torch import Tensor, nn

from secateur.asking.request import Request
from secateur.capture.state import returned
from secateur.coupling.factors import axes_choices
from secateur.coupling.protect import Protected, by_name, protected_names
from secateur.errors import RequestError
from secateur.score.criterion import Criterion, Scorer, as_criterion
from secateur.select.budget import Budget, budgets
from secateur.select.floors import LEAST, Floors, MinKeep
from secateur.select.scope import scopes
from secateur.select.targets import targets


@dataclass(frozen=True)
class Ask:
    """What a user asks for.

    Attributes:
        budget: How much may stay.
        criterion: A registered name such as "l2", "bn-scale", "activation-mean", "taylor" or "jacobian"; what
            `secateur.criterion` returns for a name with options; or a callable from a group's view to scores.
            None takes what suits the data: "after-refit" where there is some, with the scope "curves" and
            the recovery "absorb", "refit" (with "attention" between them where `axes` lets heads lose
            width) unless they are named; else "l2".
        scope: How channels compare: "global", "local", "isomorphic" or "curves"; None is "global" for a
            named criterion.
        round_to: Kept counts are rounded up to a multiple of this; 8 suits most hardware.
        target: A runtime whose kernels want multiples, by the role of each layer: "trt-fp16", "int8",
            "openvino", "cpu", "xnnpack", "ncnn", "rknn", "gguf-k" or "marlin". Beside `round_to` both hold.
            What has no smaller multiple stays whole.
        min_keep: Share of each group that always stays, at least one channel; or shares by group, with
            patterns of names, modules or parameters as keys, where 0.1 of all other groups stays.
        max_ratio: Share of each group that may go at most; `channels` beside a budget says it by group.
        uniform: One width for all layers that are alike: of a model that is built from a config, for those
            that one number of it says, so that the cut model is built from a config, too, and programs that
            read such folders take it. Each layer keeps its own best channels. What no number says stays
            whole.
        protect: What must keep its shapes: patterns of module or parameter names, modules or parameters.
        axes: Where two axes multiply, such as heads and their width, what is cut: "heads" (whole blocks),
            "widths" (inside each block) or "both".
        recover: Recovery steps to run after the check: "absorb", "attention", "refit", "blocks", "distil",
            "batch-norm". None, with a named criterion or without data, and an empty list leave the kept
            weights bit-equal to the original's.
        search: How many other widths that meet the same budget to try, such as 24; None tries none. Each is
            judged by the output error of the network that is cut and recovered so, on the last quarter of
            the batches of data, which the choice then does not see (of one batch, on that); the best two once
            more on each other quarter, recovered by the rest. What is returned is never worse by all of these
            than the widths of the scope. N widths take about N/2 + 16 recoveries.
        depth: Let whole residual blocks go, too, as `drop_blocks` does, where that leaves a smaller output
            error on that last quarter: those that cost least error for what they save of the budget are
            dropped, and widths meet the rest of it.
        check: Prove that the cut model computes what the masked one does.
        corrections: Correct numbers in the code of modules that no attribute can bring along; the modules are
            then of subclasses of their own. False protects what would need it, so that the cut model
            consists of the original's classes alone, as files of Ultralytics must.
        seed: For criteria and checks that draw.
        state: Names of what the model returns only for its next call, as for `couple`.
        outputs: What counts of what the model returns, as for `couple`.

    Raises:
        RequestError: A word makes no sense.

    Example:
        >>> ask = Ask.of(macs=0.5, scope="local", min_keep={"stem": 0.25})
        >>> print(ask.budget, ask.scope, ask.request.options)
        macs=0.5 local {'scope': 'local', 'min_keep': {'stem': 0.25}}
        >>> print(Ask.of(ask, macs="30%").request)
        macs=0.3
    """

    budget: Budget
    criterion: str | Scorer | Criterion | None = None
    scope: str | None = None
    round_to: int = 1
    target: str | None = None
    min_keep: MinKeep | Floors = LEAST
    max_ratio: float | str = 1.0
    uniform: bool = False
    protect: Protected | Sequence[Protected] = ()
    axes: str = "heads"
    recover: str | Sequence[str] | None = None
    search: int | None = None
    depth: bool = False
    check: bool = True
    corrections: bool = True
    seed: int = 0
    state: Collection[str] | None = None
    outputs: Collection[str | int] | None = None

    def __post_init__(self) -> None:
        if self.criterion is not None:
            as_criterion(self.criterion)
        if self.scope is not None:
            scopes[self.scope]
        axes_choices[self.axes]
        if self.target is not None:
            targets[self.target]
        if not isinstance(self.round_to, Integral) or self.round_to < 1:
            what = f"round_to is {self.round_to!r}"
            raise RequestError(what, ["allowed: 1 or more"], "pass a whole number such as 8")
        Floors.of(self.min_keep, self.max_ratio)
        if self.search is not None and (not isinstance(self.search, Integral) or self.search < 1):
            what = f"search is {self.search!r}"
            raise RequestError(what, ["allowed: 1 or more"], "pass how many widths to try, such as 24")

    @classmethod
    def of(cls, ask: "Ask | None" = None, /, **words: Any) -> "Ask":
        """Read a request.

        Args:
            ask: A request made before; the words beside it replace its own.
            **words: A budget, such as `macs=0.5`, and any other attribute of the class.

        Raises:
            RequestError: None or several budgets were given, or a word makes no sense.
            TypeError: There is no such word.
        """
        options = {field.name for field in fields(cls)}
        for word in words:
            if word not in options and word not in budgets:
                near = difflib.get_close_matches(word, [*options, *budgets], n=1)
                hint = f". Did you mean '{near[0]}'?" if near else ""
                raise TypeError(f"got an unexpected keyword argument '{word}'{hint}")
        given = {word: words.pop(word) for word in list(words) if word in budgets}
        is_given = any(value is not None for value in given.values())
        if "budget" in words and is_given:
            raise RequestError(f"budget and {', '.join(given)} were both given", do="pass one of them")
        if "budget" not in words and (ask is None or is_given):
            words["budget"] = Budget.of(**given)
        return cls(**words) if ask is None else replace(ask, **words)

    def filled(self, *, has_data: bool) -> "Filled":
        """This request with a criterion and a scope, and the recovery that goes with them.

        Args:
            has_data: Whether there are batches to choose and to recover by.

        Example:
            >>> filled = Ask.of(macs=0.5).filled(has_data=True)
            >>> filled.criterion, filled.scope, filled.recover
            ('after-refit', 'curves', ('absorb', 'refit'))
            >>> Ask.of(macs=0.5).filled(has_data=False).criterion
            'l2'
        """
        words = {field.name: getattr(self, field.name) for field in fields(self)}
        usual = dict(_WITH_DATA if has_data and self.criterion is None else _WITHOUT)
        if (
            "recover" in usual and self.axes != "heads"
        ):  # heads may lose width, which only this step makes up for
            usual["recover"] = ("absorb", "attention", "refit")
        return Filled(**words | {name: value for name, value in usual.items() if words[name] is None})

    @property
    def floors(self) -> Floors:
        """What always stays of each group, beside the caps of the budget."""
        return Floors.of(self.min_keep, self.max_ratio)

    @property
    def returns(self) -> Any:
        """What the model returns counts as, for `Recorded.of`."""
        return returned(self.state, self.outputs)

    def named(self, model: nn.Module) -> Self:
        """This request with names where it holds modules and parameters of a model.

        Raises:
            RequestError: One of them is no part of the model.
        """

        def names(given: Mapping[Any, Any], word: str) -> dict[str, Any]:
            return by_name(model, given, word)

        kept = self.min_keep
        return replace(
            self,
            budget=self.budget.named(names),
            min_keep=names(kept, "min_keep") if isinstance(kept, Mapping) else kept,
            protect=protected_names(model, self.protect),
        )

    @property
    def request(self) -> Request:
        """The request as a plan holds it."""
        defaults = {field.name: _plain(field.default) for field in fields(self)[1:]} | dict(_WITHOUT)
        said = {name: value for name, value in self.plain().items() if value not in (None, defaults[name])}
        options = {name: value for name, value in said.items() if name not in _AFTER}
        return Request(kind=self.budget.kind, **self.budget.data, options=options)

    def plain(self) -> dict[str, JsonValue]:
        """The words beside the budget as JSON can hold them."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)[1:]}


@dataclass(frozen=True)
class Filled(Ask):
    """A request that leaves nothing to be chosen by what data there is."""

    criterion: str | Scorer | Criterion = "l2"
    scope: str = "global"


_WITH_DATA: Mapping[str, Any] = {
    "criterion": "after-refit",
    "scope": "curves",
    "recover": ("absorb", "refit"),
}
_WITHOUT: Mapping[str, Any] = {"criterion": "l2", "scope": "global"}
"""What is taken for words that were not given, with and without data: docs/decisions/0020-after-refit.md."""

_AFTER = ("recover", "check")
"""What a plan does not depend on."""


def _plain(value: Any) -> JsonValue:
    """A word as JSON can hold it: a part of a model by its class, a criterion by its name."""
    match value:
        case None | str() | bool():
            return value
        case Integral():
            return int(value)
        case Real():
            return float(value)
        case Floors():
            return _plain(vars(value))
        case Mapping():
            return {str(key): _plain(held) for key, held in value.items()}
        case nn.Module() | Tensor():
            return type(value).__name__
        case Criterion() | Callable():
            return as_criterion(value).name
        case _:
            return [_plain(held) for held in value]
