"""Recovery steps, how they are run one after the other, and what they bring."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from secateur.capture.copies import copy_module
from secateur.coupling import Groups
from secateur.errors import RequestError
from secateur.graph.keep import Kept
from secateur.recovery.loss import output_error, outputs_of
from secateur.registry import Registry
from secateur.rich import Table
from secateur.tables import printed

MEMORY_BYTES = 2 * 2**30
"""What the activations of the calibration batches between two layers may take, if nothing else is said."""

SECONDS = 300.0
"""What learning block by block may take, if nothing else is said."""

HOLD_BACK_FROM = 8
"""From so many batches on the last one is kept from the steps, so that the error on it is an honest one."""


def say_on_terminal(line: str) -> None:
    """Write a line on standard error, where that is a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"{line}\n")


@dataclass(frozen=True, eq=False)
class Subject:
    """What a recovery step works with.

    Attributes:
        original: The uncut model; not changed.
        cut: The cut model; a step returns a changed copy.
        example_inputs: Inputs of both.
        groups: The groups of the original.
        kept: What stays of each axis.
        data: Batches of inputs, without labels; None if there are none.
        held: A batch that no step learns from, which can tell whether one did harm; None if all are learned
            from.
        memory_bytes: What the activations of the batches between two layers may take; a step that would need
            more uses fewer batches and says so.
        seconds: What a step that learns may take; one that would need longer takes fewer steps and says so.
        say: Told what will take long, before it begins.
        dense: What output errors are against, where the uncut model is less than that; None where it is not.
    """

    original: nn.Module
    cut: nn.Module
    example_inputs: Any
    groups: Groups
    kept: Kept
    data: Sequence[Any] | None = None
    held: Any | None = None
    memory_bytes: int = MEMORY_BYTES
    seconds: float = SECONDS
    say: Callable[[str], None] = say_on_terminal
    dense: nn.Module | None = None

    @property
    def reference(self) -> nn.Module:
        """What output errors are against."""
        return self.original if self.dense is None else self.dense


Status: TypeAlias = Literal["exact", "approximate", "left alone", "limit"]


@dataclass(frozen=True)
class Recovery:
    """What one step did to one layer.

    Attributes:
        step: The step's name.
        layer: The layer that was changed, or would have been.
        status: "exact" if the change restores what was lost, "approximate" if it comes near, "left alone" if
            nothing was changed; or "limit" for a word on the step as a whole.
        detail: What was done, or why not.

    Example:
        >>> print(Recovery("absorb", "2", "left alone", "its weight is computed"))
        absorb 2: approximate, left alone: its weight is computed
    """

    step: str
    layer: str
    status: Status
    detail: str

    @property
    def exact(self) -> bool:
        """Whether the change restores exactly what was lost."""
        return self.status == "exact"

    def __str__(self) -> str:
        how = "exact" if self.exact else "approximate"
        left = "left alone: " if self.status == "left alone" else ""
        return f"{self.step} {self.layer}: {how}, {left}{self.detail}"


@dataclass(frozen=True)
class Recovered:
    """What one step brought, without labels: how far the outputs are from those of the dense model.

    Attributes:
        step: The step's name.
        before: Error before the step: |cut - dense| / |dense| over all outputs, 0 for no difference.
        after: The same after it.
        samples_from: Which batch it was measured on, in words.

    Example:
        >>> print(Recovered("refit", 0.512, 0.0341, "the last batch, which no step saw"))
        refit: output error 51.2 % -> 3.41 % on the last batch, which no step saw
    """

    step: str
    before: float
    after: float
    samples_from: str

    def __str__(self) -> str:
        shares = f"{_percent(self.before)} -> {_percent(self.after)}"
        return f"{self.step}: output error {shares} on {self.samples_from}"


@dataclass(frozen=True)
class RecoveryStep:
    """A recovery step as it is registered.

    Attributes:
        run: From a subject to a new model, and what was done to each layer.
        needs_data: It cannot do without batches.
        needs_fresh: It adds to what is there, so that nothing may have recovered or trained the model before.
        is_learned: It takes gradients, and as long as some training.
    """

    run: "Run"
    needs_data: bool
    needs_fresh: bool = False
    is_learned: bool = False


Run: TypeAlias = Callable[[Subject], tuple[nn.Module, list[Recovery]]]

steps: Registry[RecoveryStep] = Registry("recovery step", "secateur.recovery.steps")

DEFAULT = ("absorb", "refit")
"""The steps that run if none are named, in this order; without data those that need none.

Not "batch-norm": after `refit` the statistics of the dense model fit, and others are worse (docs/LOG.md).
"""


def step(
    name: str, *, needs_data: bool = False, needs_fresh: bool = False, is_learned: bool = False
) -> Callable[[Run], Run]:
    """Register a recovery step.

    Args:
        name: The word that users choose it by.
        needs_data: It cannot do without batches.
        needs_fresh: It is for a fresh cut, which nothing has recovered or trained.
        is_learned: It takes gradients, and as long as some training.
    """

    def register(run: Run) -> Run:
        steps.add(name, RecoveryStep(run, needs_data, needs_fresh, is_learned))
        return run

    return register


def choose(
    names: str | Sequence[str] | None, *, has_data: bool, changed: str = "", word: str = "data"
) -> tuple[str, ...]:
    """The steps that are asked for.

    Args:
        names: Registered names, or one; None for all that can run.
        has_data: Whether there are batches.
        changed: A tensor of the model that differs from the fresh cut's; empty for a fresh cut.
        word: The argument that takes batches, for messages.

    Raises:
        RequestError: A step is unknown, needs data and there are none, or is for a fresh cut and the model
            was recovered or trained since, or would be by the steps before it; or no step can run.

    Example:
        >>> choose(None, has_data=False)
        ('absorb',)
        >>> choose(None, has_data=True, changed="conv.bias")
        ('refit',)
        >>> choose(["refit"], has_data=False)
        Traceback (most recent call last):
        ...
        secateur.errors.RequestError: recovery step 'refit' needs data
          it learns from what flows through the network
          pass data=, batches of inputs without labels; a few hundred samples do
    """
    if names is None:
        able = [name for name in DEFAULT if has_data or not steps[name].needs_data]
        fresh = [name for name in able if not (changed and steps[name].needs_fresh)]
        names = fresh or able  # those of which none can run are refused below
    chosen = (names,) if isinstance(names, str) else tuple(names)
    needing = [name for name in chosen if steps[name].needs_data]
    if needing and not has_data:
        raise RequestError(
            f"recovery step '{needing[0]}' needs data",
            ["it learns from what flows through the network"],
            f"pass {word}=, batches of inputs without labels; a few hundred samples do",
        )
    for at, name in enumerate(chosen):
        if steps[name].needs_fresh and changed:
            raise RequestError(
                f"recovery step '{name}' is for a fresh cut, and the model was recovered or trained since",
                [f"first difference to a fresh cut: {changed}"],
                "use refit, which starts from whatever is there",
            )
        if steps[name].needs_fresh and at > 0:
            raise RequestError(
                f"recovery step '{name}' is for a fresh cut, and '{chosen[at - 1]}' comes before it",
                do=f"name '{name}' once, and first",
            )
    return chosen


def recover(
    subject: Subject, names: Sequence[str]
) -> tuple[nn.Module, tuple[Recovery, ...], tuple[Recovered, ...]]:
    """Run recovery steps in order.

    Args:
        subject: The cut model and where it comes from.
        names: Registered step names.

    Returns:
        A new model, what each step did to each layer, and with data what each step brought.

    Raises:
        RequestError: As `choose`.
    """
    with torch.inference_mode(False):  # what is made in inference mode cannot be trained
        return _recover(subject, choose(names, has_data=subject.data is not None))


def _recover(
    subject: Subject, chosen: Sequence[str]
) -> tuple[nn.Module, tuple[Recovery, ...], tuple[Recovered, ...]]:
    done: list[Recovery] = []
    brought: list[Recovered] = []
    judge = None if subject.data is None else _Judge(subject)
    if judge is not None:
        subject = replace(subject, data=judge.seen, held=judge.batch if judge.is_held else None)
    if not chosen:
        subject = replace(subject, cut=copy_module(subject.cut))
    for name in chosen:
        cut, notes = steps[name].run(subject)
        subject = replace(subject, cut=cut)
        done.extend(notes)
        if judge is not None:
            brought.append(judge.after(name, cut))
    return subject.cut, tuple(done), tuple(brought)


class _Judge:
    """Measures the output error on the last batch."""

    def __init__(self, subject: Subject) -> None:
        assert subject.data, "batches are never empty"
        self.is_held = len(subject.data) >= HOLD_BACK_FROM
        self.seen = subject.data[:-1] if self.is_held else subject.data
        self.samples_from = "the last batch, which no step saw" if self.is_held else "the last batch"
        self.batch, self.number = subject.data[-1], len(subject.data) - 1
        self.state = subject.groups.graph.state
        self.dense = outputs_of(subject.reference, self.batch, self.number, self.state)
        self.error = self._of(subject.cut)

    def _of(self, cut: nn.Module) -> float:
        return output_error(self.dense, outputs_of(cut, self.batch, self.number, self.state))

    def after(self, name: str, cut: nn.Module) -> Recovered:
        before, self.error = self.error, self._of(cut)
        return Recovered(name, before, self.error, self.samples_from)


def table(brought: Sequence[Recovered]) -> str:
    """The records as the table that `print` shows."""
    found = Table("step", "output error before", "after", title="recovered", title_justify="left")
    for one in brought:
        found.add_row(one.step, _percent(one.before), _percent(one.after))
    return f"{printed(found)}\noutput error: |cut - dense| / |dense| on {brought[0].samples_from}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
