"""Recovery steps and how they are run one after the other."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from secateur.couple import Groups
from secateur.graph.axes import Axis
from secateur.graph.keep import Mask
from secateur.registry import Registry


@dataclass(frozen=True, eq=False)
class Subject:
    """What a recovery step works with.

    Attributes:
        original: The uncut model; not changed.
        cut: The cut model; a step returns a changed copy.
        example_inputs: Inputs of both.
        groups: The groups of the original.
        keep: A mask for each cut axis.
        data: Batches of inputs, without labels; None if there are none.
    """

    original: nn.Module
    cut: nn.Module
    example_inputs: Any
    groups: Groups
    keep: Mapping[Axis, Mask]
    data: Iterable[Any] | None = None


@dataclass(frozen=True)
class Recovery:
    """What one step did to one layer.

    Attributes:
        step: The step's name.
        layer: The layer that was changed, or would have been.
        exact: Whether the change restores exactly what was lost.
        detail: What was done, or why not.
    """

    step: str
    layer: str
    exact: bool
    detail: str

    def __str__(self) -> str:
        return f"{self.step} {self.layer}: {'exact' if self.exact else 'approximate'}, {self.detail}"


Step = Callable[[Subject], tuple[nn.Module, list[Recovery]]]

steps: Registry[Step] = Registry("recovery step", "secateur.recover.steps")


def recover(subject: Subject, names: Sequence[str]) -> tuple[nn.Module, tuple[Recovery, ...]]:
    """Run recovery steps in order.

    Args:
        subject: The cut model and where it comes from.
        names: Registered step names.

    Returns:
        A new model, and what each step did.

    Raises:
        RequestError: A step is unknown.
    """
    chosen = [steps[name] for name in names]
    done: list[Recovery] = []
    for step in chosen:
        cut, notes = step(subject)
        subject = Subject(
            subject.original, cut, subject.example_inputs, subject.groups, subject.keep, subject.data
        )
        done.extend(notes)
    return subject.cut, tuple(done)
