"""Masks over training: a plain object whose `step` is called after each step of the optimizer."""

from typing import Any, Protocol

import torch
from torch import nn

from secateur.errors import RequestError
from secateur.mask.hook import attach
from secateur.mask.pruning import Method, prune
from secateur.mask.reporting import Sparsity, sparsity_of
from secateur.mask.schedule import schedules
from secateur.mask.state import forget_masked
from secateur.mask.targets import Selector, choose


class Stepper(Protocol):
    """What callbacks drive."""

    steps: int

    def step(self) -> bool:
        """Take note of a training step; tells whether the masks changed."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold beside the model's state dict: numbers."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another one stood."""
        ...


class Gradual:
    """Masks more and more while a model is trained.

    At the steps `begin`, `begin + every`, ... `end` the model is masked to the sparsity that the schedule
    says; further steps change nothing. Masked entries are set to zero in the parameters and in what the
    optimizer remembers, so momentum cannot revive them.

    Args:
        model: Masked in place.
        sparsity: The share that is masked in the end.
        schedule: "one-shot", "linear", "cubic" (AGP), "exponential", "one-cycle", "dense-sparse-dense".
        end: The step at which the sparsity is reached.
        begin: The first step that masks.
        every: Steps between two changes.
        optimizer: The one that trains; None leaves its memory alone.
        method: As for `prune`, and so are the arguments that follow.
        select: Which tensors.
        **how: Further arguments of `prune`, such as `scope="global"`.

    Attributes:
        steps: How many steps were taken.
        now: The sparsity that the schedule asked for last.

    Example:
        >>> net = nn.Linear(10, 10)
        >>> gradual = Gradual(net, sparsity=0.8, schedule="cubic", end=4)
        >>> [round((gradual.step(), gradual.sparsity.sparsity)[1], 2) for _ in range(5)]
        [0.0, 0.46, 0.7, 0.79, 0.8]
        >>> print(gradual)
        cubic to 80.00%: step 5, done, asked for 80.00%, masked 80.00%
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        sparsity: float,
        schedule: str = "cubic",
        end: int,
        begin: int = 0,
        every: int = 1,
        optimizer: torch.optim.Optimizer | None = None,
        method: Method = "l1",
        select: Selector = None,
        **how: Any,
    ) -> None:
        if not 0 <= begin <= end or every < 1:
            raise RequestError(
                f"the schedule runs from step {begin} to {end}, every {every}",
                do="pass 0 <= begin <= end and every >= 1",
            )
        if not 0 <= sparsity <= 1:
            raise RequestError(f"sparsity is {sparsity}", do="pass a share in [0, 1]")
        self.schedule = schedules[schedule]
        self.name, self.end_sparsity = schedule, sparsity
        self.begin, self.end, self.every = begin, end, every
        self.model, self.optimizer, self.method, self.select, self.how = model, optimizer, method, select, how
        self.targets = choose(model, select, how.get("parameters", ("weight",)))
        self.steps = 0
        self.now = self.start_sparsity = self.sparsity.sparsity

    @property
    def sparsity(self) -> Sparsity:
        """How much is masked now."""
        return sparsity_of(self.targets, of_masks=True)

    @property
    def is_done(self) -> bool:
        """Whether the last change was made."""
        return self.steps > self.end

    def step(self) -> bool:
        """Take note of a training step; call it after `optimizer.step()`.

        Returns:
            Whether the masks changed.
        """
        at = self.steps
        self.steps += 1
        due = self.begin <= at <= self.end and ((at - self.begin) % self.every == 0 or at == self.end)
        if not due:
            return False
        progress = (at - self.begin) / (self.end - self.begin) if self.end > self.begin else 1.0
        before, self.now = self.now, self.schedule(progress, self.start_sparsity, self.end_sparsity)
        if self.now < before:
            self._lift()
        if self.now > self.start_sparsity:
            prune(self.model, self.method, sparsity=self.now, select=self.select, **self.how)
        if self.optimizer is not None:
            forget_masked(self.model, self.optimizer)
        return True

    def _lift(self) -> None:
        """Take masks back; what was masked starts again from zero."""
        with torch.no_grad():
            for target in self.targets:
                target.orig.mul_(target.mask)
                for module, parameter in target.places:
                    attach(module, parameter, torch.ones_like(target.mask))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold beside the model's state dict."""
        return {"steps": self.steps, "now": self.now, "start_sparsity": self.start_sparsity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another one stood; the model's masks come with its own state dict."""
        self.steps, self.now, self.start_sparsity = state["steps"], state["now"], state["start_sparsity"]

    def __str__(self) -> str:
        where = "done" if self.is_done else f"of {self.begin} to {self.end}"
        return (
            f"{self.name} to {self.end_sparsity:.2%}: step {self.steps}, {where}, "
            f"asked for {self.now:.2%}, masked {self.sparsity.sparsity:.2%}"
        )
