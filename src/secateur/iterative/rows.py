"""What pruning in steps reports: a row for each stage, and the result."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from secateur.costs import Cost
from secateur.plans.plan import Plan
from secateur.write.checkpoint import save_model

ROWS = "steps.jsonl"
"""The file of the rows, in the folder of a run."""


@dataclass(frozen=True)
class StageRow:
    """One stage of one step.

    Attributes:
        name: "step-02 tuned".
        step: From 1.
        stage: "cut" (right after it), "recovered" (without training) or "tuned".
        asked: Share that should be gone after this step, from 0 to 1, of what the budget counts.
        removed: Share that is gone.
        params: Parameters that are left.
        macs: MACs that are left.
        figures: How good the model is on the validation part, the deciding figure first.
        seconds: What the stage took.
        kept_epoch: Of a fine-tuning, the epoch whose weights went on; 0 where all were worse than before it.
        lower_is_better: Of the deciding figure.
    """

    name: str
    step: int
    stage: str
    asked: float
    removed: float
    params: int
    macs: int
    figures: dict[str, float]
    seconds: float
    kept_epoch: int | None = None
    lower_is_better: bool = False

    @property
    def value(self) -> float:
        """The deciding figure."""
        return next(iter(self.figures.values()))

    @property
    def accuracy(self) -> float:
        """Of a classifier, the share of the validation images that are right."""
        return self.figures["accuracy"]

    @property
    def loss(self) -> float:
        """On the validation part, where that is a figure: of a classifier the mean cross entropy, in nats."""
        return self.figures["loss"]

    def __str__(self) -> str:
        stayed = " (as before the fine-tuning, which was worse)" if self.kept_epoch == 0 else ""
        judged = ", ".join(f"{name} {value:.4f}" for name, value in self.figures.items())
        return (
            f"{self.name}: {self.removed * 100:.1f} % gone, {self.params:,} parameters, {self.macs:,} MACs, "
            f"validation {judged}{stayed}"
        )


@dataclass(frozen=True, eq=False)
class Iterated:
    """What `iterate` returns.

    Attributes:
        model: The last step's model, fine-tuned.
        plan: All cuts in a row.
        rows: For each step: cut, recovered (where anything was), tuned.
        before: Cost of the model that came in.
        after: Cost of the last one.
    """

    model: nn.Module
    plan: Plan
    rows: tuple[StageRow, ...]
    before: Cost
    after: Cost

    def save(self, folder: Path | str) -> Path:
        """Write the model and its plan, as `secateur.save` does; returns the folder."""
        return save_model(self.model, self.plan, folder)

    def __str__(self) -> str:
        steps = self.rows[-1].step
        first = f"pruned {self.plan.model} in {steps} steps: {self.before.macs:,} -> {self.after.macs:,} MACs"
        return "\n".join([first, *map(str, self.rows)])
