"""How a model is pruned in steps.

Step k of N brings the share that is gone from s(k-1) to s(k); each formula starts at 0 and ends at what was
asked for:

    linear       s(k) = s k/N                       as much of the whole at each step
    geometric    s(k) = 1 - (1 - s)^(k/N)           the same share of what is left at each step
    agp          s(k) = s (1 - (1 - k/N)^3)         much at first, then ever less (automated gradual pruning)

Shares are of what the budget counts: channels for a ratio, MACs, parameters or bytes otherwise. The formulas
are those of the mask schedules in `secateur.mask`.

References:
    Zhu and Gupta, "To Prune, or Not to Prune", 2017, equation 1 (agp). https://arxiv.org/abs/1710.01878
    Han et al., "Learning both Weights and Connections", NeurIPS 2015, section 3.4 (iterative pruning).
    https://arxiv.org/abs/1506.02626
"""

import dataclasses
from dataclasses import dataclass
from math import log
from typing import Any

from secateur.costs import Cost
from secateur.errors import RequestError
from secateur.mask.schedule import schedules
from secateur.score.criterion import describe
from secateur.select.budget import Budget
from secateur.train import FitConfig

SCHEDULES = {"linear": "linear", "geometric": "exponential", "agp": "cubic"}
"""The words for schedules, and the mask schedules whose formulas they are."""

_BUDGETS = {
    "ratio": "",
    "macs": "macs",
    "params": "params",
    "size_bytes": "size_bytes",
    "memory": "memory_bytes",
}
"""The budgets, and where a cost tells what they count; a ratio counts channels. A latency varies from one
measurement to the next, so no share of it can be said to be gone."""


@dataclass(frozen=True)
class Recipe:
    """How a model is pruned in steps.

    Args:
        finetune: Training after each cut; `iterate` decides where it saves.
        steps: How many cuts.
        schedule: "linear", "geometric" or "agp".
        ratio: Share of the channels to remove in all; or
        macs: MACs that may stay, as a share below 1.0, a count or a text such as "50%"; or
        params: parameters that may stay, likewise; or
        size_bytes: bytes of parameters and buffers that may stay, likewise, also "2MB"; or
        memory: bytes that a forward pass on the example inputs may need at once, likewise.
        criterion: As for `prune`, and so are the arguments that follow.
        scope: How channels compare.
        round_to: Kept counts are rounded up to a multiple of this.
        min_keep: Share of each group that always stays, after all steps together.
        protect: Patterns of names whose tensors keep their shapes.
        axes: What is cut where two axes multiply: "heads", "widths" or "both".
        recover: Recovery steps after each cut; empty for none.
        check: Prove every cut.
        seed: For criteria and checks that draw.

    Raises:
        RequestError: A value makes no sense, the budget is none or several, or the schedule is unknown.

    Example:
        >>> tune = FitConfig(epochs=1)
        >>> [round(s, 3) for s in Recipe(tune, steps=4, schedule="geometric", ratio=0.9375).shares(1024)]
        [0.5, 0.75, 0.875, 0.938]
        >>> [round(s, 3) for s in Recipe(tune, steps=4, schedule="agp", macs=0.5).shares(10**6)]
        [0.289, 0.438, 0.492, 0.5]
    """

    finetune: FitConfig
    steps: int = 5
    schedule: str = "agp"
    ratio: float | None = None
    macs: float | str | None = None
    params: float | str | None = None
    size_bytes: float | str | None = None
    memory: float | str | None = None
    criterion: Any = "l2"
    scope: str = "global"
    round_to: int = 1
    min_keep: float = 0.1
    protect: tuple[str, ...] = ()
    axes: str = "heads"
    recover: tuple[str, ...] = ("absorb", "refit")
    check: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            known = f"known: {', '.join(SCHEDULES)}"
            raise RequestError(f"unknown schedule '{self.schedule}'", [known], "choose one of them")
        if self.steps < 1:
            raise RequestError(f"steps is {self.steps}", ["allowed: 1 or more"], "pass a number such as 5")
        given = [kind for kind in _BUDGETS if getattr(self, kind) is not None]
        if len(given) != 1:
            what = f"{len(given)} budgets were given: {', '.join(given) or 'none'}"
            raise RequestError(what, do=f"pass exactly one of {', '.join(_BUDGETS)}")
        if self.budget.asks_for_nothing:
            raise RequestError(f"{self.budget} asks for nothing", do="ask for less than the model has")
        if not 0 <= self.min_keep <= 1:
            what = f"min_keep is {self.min_keep:g}"
            raise RequestError(what, ["allowed: 0 to 1"], "pass a share such as 0.1")
        if self.finetune.save is not None:
            what = f"the fine-tuning of each step is to be saved in {self.finetune.save}"
            raise RequestError(what, do="pass save= to iterate: each step has a folder of its own in it")

    @property
    def budget(self) -> Budget:
        """What was asked for in the end."""
        return Budget.of(**{kind: getattr(self, kind) for kind in _BUDGETS})

    def counted(self, cost: Cost, channels: int) -> int:
        """What the budget counts, of a model.

        Args:
            cost: What the model costs.
            channels: How many channels its prunable groups have.
        """
        figure = _BUDGETS[self.budget.kind]
        return getattr(cost, figure) if figure else channels

    def shares(self, whole: int) -> list[float]:
        """List the share that is gone after each step.

        Args:
            whole: How much of what the budget counts there is before the first.

        Raises:
            RequestError: More is asked to stay than there is.
        """
        end = 1 - self.budget.target(whole) / whole
        if end <= 0:
            raise RequestError(f"{self.budget} asks for nothing", do="ask for less than the model has")
        formula = schedules[SCHEDULES[self.schedule]]
        return [formula(step / self.steps, 0.0, end) for step in range(1, self.steps + 1)]

    def floor(self, before: float, after: float, end: float) -> float:
        """The share of each group that stays in one step, so that `min_keep` of it stays in all.

        Args:
            before: Share that was gone before the step.
            after: Share that is gone after it.
            end: Share that is gone after the last one.

        Example:
            >>> recipe = Recipe(FitConfig(epochs=1), ratio=0.75, min_keep=0.25)
            >>> recipe.floor(0.0, 0.5, 0.75), recipe.floor(0.5, 0.75, 0.75)
            (0.5, 0.5)
        """
        return self.min_keep ** (log((1 - after) / (1 - before)) / log(1 - end))

    def as_json(self) -> dict[str, Any]:
        """What decides the result, as it stands in the first line of the rows."""
        named = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        finetune = {**self.finetune.recipe(), "keep": self.finetune.keep}
        for kind in _BUDGETS:
            del named[kind]
        named[self.budget.kind] = self.budget.value
        return {**named, "criterion": describe(self.criterion), "finetune": finetune}
