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

from dataclasses import dataclass
from math import log
from typing import Any, Unpack

from secateur.asking import Ask, Filled, Words
from secateur.errors import RequestError
from secateur.mask.schedule import step_schedules
from secateur.score.criterion import describe
from secateur.select import Budget, Floors
from secateur.train import FitConfig


@dataclass(frozen=True, init=False)
class Recipe:
    """How a model is pruned in steps.

    Args:
        finetune: Training after each cut; `iterate` decides where it saves.
        steps: How many cuts.
        schedule: "linear", "geometric" or "agp".
        ask: What is asked for in the end, all steps together.
        **words: The request as for `prune`, in place of `ask` or of its own words. Floors and caps hold over
            all steps together, `recover` says what follows each cut: absorb and refit where nothing does. The
            criterion is "l2" unless it is named: `calibration` is for what asks for it.

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
    steps: int
    schedule: str
    ask: Filled

    def __init__(
        self,
        finetune: FitConfig,
        steps: int = 5,
        schedule: str = "agp",
        ask: Ask | None = None,
        **words: Unpack[Words],
    ) -> None:
        if ask is None:
            words.setdefault("recover", ("absorb", "refit"))
        step_schedules[schedule]
        if steps < 1:
            raise RequestError(f"steps is {steps}", ["allowed: 1 or more"], "pass a number such as 5")
        if finetune.save is not None:
            what = f"the fine-tuning of each step is to be saved in {finetune.save}"
            raise RequestError(what, do="pass save= to iterate: each step has a folder of its own in it")
        asked = Ask.of(ask, **words).filled(has_data=False)
        if asked.budget.not_in_steps:
            what = f"{asked.budget} cannot be asked for in steps"
            raise RequestError(what, [asked.budget.not_in_steps], "ask for ratio, macs, params or bytes")
        if asked.search is not None or asked.depth:
            word = "depth" if asked.search is None else "search"
            do = "leave it out: the training between the cuts decides more"
            raise RequestError(f"{word} is for one cut, not for several with training between", do=do)
        if asked.budget.asks_for_nothing:
            raise RequestError(f"{asked.budget} asks for nothing", do="ask for less than the model has")
        for name, value in (("finetune", finetune), ("steps", steps), ("schedule", schedule), ("ask", asked)):
            object.__setattr__(self, name, value)

    @property
    def budget(self) -> Budget:
        """What was asked for in the end."""
        return self.ask.budget

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
        formula = step_schedules[self.schedule]
        return [formula(step / self.steps, 0.0, end) for step in range(1, self.steps + 1)]

    def floors(self, before: float, after: float, end: float) -> Floors:
        """What stays of each group in one step, so that what was asked for stays in all.

        Args:
            before: Share that was gone before the step.
            after: Share that is gone after it.
            end: Share that is gone after the last one.

        Example:
            >>> recipe = Recipe(FitConfig(epochs=1), ratio=0.75, min_keep=0.25)
            >>> recipe.floors(0.0, 0.5, 0.75).share, recipe.floors(0.5, 0.75, 0.75).share
            (0.5, 0.5)
        """
        power = log((1 - after) / (1 - before)) / log(1 - end)
        return self.ask.floors.capped(self.budget.at_most).map(lambda share: share**power)

    def as_json(self) -> dict[str, Any]:
        """What decides the result, as it stands in the first line of the rows."""
        return {
            "steps": self.steps,
            "schedule": self.schedule,
            **self.ask.plain(),
            "criterion": describe(self.ask.criterion),
            self.budget.kind: self.budget.value,
            "at most": dict(self.budget.at_most),
            "finetune": {**self.finetune.recipe(), "keep": self.finetune.keep},
        }
