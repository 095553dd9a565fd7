"""The registry of budgets: how much may stay of a model, one file for each thing that can be counted.

A budget is a word of `prune` (`macs=0.5`), and its class says all of it: how the word is read, what it counts
and in which unit, how an amount is shown, what may stay, and how widths are chosen for it. `Budget` itself is
one of an amount that is counted from the record, so that a class which counts something new says no more than

    @budget("biases")
    class Biases(Budget):
        unit = "numbers"
        meter = staticmethod(biases_meter)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, ClassVar, TypeAlias

from secateur.costs.budgeted import Gauge
from secateur.costs.meter import CostMeter
from secateur.coupling import Group, Groups
from secateur.errors import RequestError
from secateur.registry import Registry
from secateur.select.choice import Choice, Selection
from secateur.select.meet import meet, removed_after
from secateur.select.reading import read_amount
from secateur.select.scope import scopes
from secateur.select.widths import Widths

THOUSANDS = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}

Naming: TypeAlias = Callable[[Mapping[Any, Any], str], dict[str, Any]]
"""From parts of a model as keys to their names; the word they were given by is for messages."""


@dataclass(frozen=True)
class Budget:
    """How much may stay: a share of what the uncut model has, or an amount.

    Attributes:
        value: The share or amount.
        is_share: Which of them it is.
        at_most: The share that a group may lose at most, by pattern.
        kind: The word that users choose it by.
        takes: What may be written after that word.
        unit: What it counts.
        factors: The units that a text may have.
        example: How an amount is written, for messages.
        meaning: What the value is, for messages.
        numbers_are_shares: A number up to 1.0 is a share.
        gives_back: Channels of layers that it does not feel are given back even where it is met.
        names_groups: It names the groups that it is about.
        is_timed: What is chosen is a prediction, to be held against the clock.
        not_in_steps: Why a model cannot be pruned to it in steps; empty if it can.

    Example:
        >>> print(Budget.of(macs=0.5), Budget.of(memory="2MiB"), Budget.of(latency_ms="40%"))
        macs=0.5 memory=2,097,152 latency_ms=40%
    """

    value: float = 0.0
    is_share: bool = False
    at_most: Mapping[Any, float] = field(default_factory=dict)

    kind: ClassVar[str] = ""
    takes: ClassVar[Any] = float | str | None
    unit: ClassVar[str] = "channels"
    factors: ClassVar[Mapping[str, float]] = THOUSANDS
    example: ClassVar[str] = " or '1.5M'"
    meaning: ClassVar[str] = "a share or a count"
    numbers_are_shares: ClassVar[bool] = True
    gives_back: ClassVar[bool] = False
    names_groups: ClassVar[bool] = False
    is_timed: ClassVar[bool] = False
    not_in_steps: ClassVar[str] = ""

    @staticmethod
    def of(**given: Any) -> "Budget":
        """Read the one budget that was given, and the caps of `channels` beside it.

        Args:
            **given: What was written after each word; None for nothing.

        Raises:
            RequestError: None or several were given, or the value is out of range.
        """
        asked = {word: value for word, value in given.items() if value is not None}
        read = [budgets[word].read(value) for word, value in asked.items()]
        if len(read) == 1:
            return read[0]
        if len(read) == 2 and (joined := read[0].beside(read[1]) or read[1].beside(read[0])):
            return joined
        raise RequestError(
            f"{len(asked)} budgets were given: {', '.join(asked) or 'none'}",
            ["channels beside one of the others says what each group may lose at most"],
            f"pass exactly one of {', '.join(budgets)}",
        )

    @classmethod
    def read(cls, given: Any) -> "Budget":
        """Read what was written after the word.

        Raises:
            RequestError: It makes no sense.
        """
        number, is_share = read_amount(cls.kind, given, cls.factors, cls.example)
        if not 0 < number < inf:
            what = f"{cls.kind} is {given}"
            raise RequestError(what, do=f"pass the {cls.kind} that may stay: {cls.meaning}")
        return cls(number, cls.numbers_are_shares and number <= 1 if is_share is None else is_share)

    def beside(self, other: "Budget") -> "Budget | None":
        """Another budget, with this one as a cap on what each group may lose; None if it is no such cap."""
        return None

    def named(self, names: Naming) -> "Budget":
        """This budget with names where it holds parts of a model."""
        return replace(self, at_most=names(self.at_most, "channels"))

    def target(self, whole: float) -> float:
        """What may stay, in units of the budget, given the uncut model's.

        Raises:
            RequestError: More is asked to stay than there is.
        """
        target = self.value * whole if self.is_share else self.value
        if target > whole:
            raise RequestError(
                f"{self.kind} budget is {self.show(target)}, the uncut model has {self.show(whole)}",
                do="ask for less than the model has",
            )
        return target

    def asks_of(self, group: Group) -> bool:
        """Whether a group may be asked to lose channels."""
        return True

    @property
    def asks_for_nothing(self) -> bool:
        """Whether all may stay."""
        return self.is_share and self.value == 1

    @classmethod
    def show(cls, amount: float) -> str:
        """An amount in the budget's units, as a text."""
        return f"{amount:,.0f}"

    @staticmethod
    def meter(groups: Groups) -> CostMeter | None:
        """What counts it, from a record; None where channels are counted."""
        return None

    def exactly(self, groups: Groups) -> Selection | None:
        """What it asks for to the very position; None where scores decide which channels stay."""
        return None

    def choose(self, widths: Widths, scope: str, gauge: Gauge | None) -> Choice:
        """Choose how many channels each unit loses: those that go first in the scope, till the budget is met.

        Args:
            widths: Kept counts and what they cost.
            scope: How channels of different groups compare.
            gauge: What predicts a time; None where nothing is timed.

        Raises:
            RequestError: The smallest reachable is more than the budget.
        """
        chosen = scopes[scope]
        order = chosen.order(widths)
        target = self.target(widths.cost([0] * len(widths.units)))
        smallest = widths.cost(removed_after(widths, order))
        if smallest > target:
            raise self.out_of_reach(target, smallest)
        removed = meet(widths, target, order, is_even=chosen.is_even, gives_back=self.gives_back)
        return Choice(removed, target)

    def out_of_reach(self, target: float, smallest: float) -> RequestError:
        """The refusal of a budget that cannot be met."""
        return RequestError(
            f"{self} allows {self.show(target)}, the smallest reachable is {self.show(smallest)}",
            ["floors, rounding and protected groups keep the rest"],
            "ask for more, or lower min_keep or round_to",
        )

    def leaving(self, stays: float, whole: float) -> "Budget":
        """This budget for a model of which less is left than when it was made.

        Args:
            stays: What should stay, in the budget's units.
            whole: What there is.
        """
        return replace(self, value=float(int(stays)), is_share=False)

    @property
    def parts(self) -> Mapping[str, float]:
        """What it says of groups, by pattern."""
        return self.at_most

    @classmethod
    def words(cls, value: float | None, is_share: bool, parts: Mapping[str, float]) -> str:
        """The request as a text, from what a plan holds of it.

        Args:
            value: As in `Budget`; None where there are parts alone.
            is_share: As in `Budget`.
            parts: What it says of groups, by pattern.
        """
        if value is None:
            return f"{cls.kind}={dict(parts)}"
        number = f"{value:,.0f}" if value > 1e5 else f"{value:g}"
        return f"{cls.kind}={number}" + (f", at most {dict(parts)}" if parts else "")

    @property
    def data(self) -> dict[str, Any]:
        """What `words` makes a text of, and a plan holds."""
        value = None if self.names_groups else self.value
        return {"value": value, "is_share": self.is_share, "parts": self.parts}

    def __str__(self) -> str:
        return self.words(**self.data)

    @classmethod
    def help(cls) -> str:
        """What the word means, on one line: the class's docstring down to its attributes."""
        return " ".join((cls.__doc__ or "").partition("Attributes:")[0].split())


budgets: Registry[type[Budget]] = Registry("budget", "secateur.select.budgets")


def budget(word: str) -> Callable[[type[Budget]], type[Budget]]:
    """Register a budget under the word that users choose it by."""

    def register(made: type[Budget]) -> type[Budget]:
        made.kind = word
        return budgets.add(word, made)

    return register


def budget_of(word: str) -> type[Budget]:
    """The budget of a word; of a plan by one that is not registered here, one that counts plainly.

    Example:
        >>> budget_of("latency_ms").unit, budget_of("").unit
        ('ms', 'channels')
    """
    return budgets[word] if word in budgets else Budget  # noqa: SIM401 - it raises no KeyError
