"""Evidence: what criteria and recovery steps see of a task's data.

They know pairs of inputs and a target, and a loss of output and target. For a task the target is the whole
batch, and the loss is the task's.
"""

import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

from torch import Tensor, nn

from secateur.score import Criterion, choose
from secateur.score.criterion import Scorer, as_criterion
from secateur.train.task import Batch, Task


@dataclass(frozen=True, eq=False)
class EvidenceBatches:
    """Batches of a task as pairs, made anew by each loop over them.

    Attributes:
        task: What the network is for.
        batches: Its batches.
    """

    task: Task
    batches: Iterable[Batch]

    def __iter__(self) -> Iterator[Any]:
        return (paired(self.task, batch) for batch in self.batches)


def paired(task: Task, batch: Batch) -> Any:
    """What a network takes, with the batch as its target.

    Args:
        task: What the network is for.
        batch: One of its batches.

    Example:
        >>> from secateur.train.task import tasks
        >>> paired(tasks["segmentation"], ("images", "masks"))
        ('images', ('images', 'masks'))
    """
    if task.has_plain_targets:
        return batch
    inputs = task.inputs(batch)
    if isinstance(inputs, Mapping):
        return {**inputs, "label": batch}
    return (*inputs, batch) if isinstance(inputs, (tuple, list)) else (inputs, batch)


def criterion_of(
    task: Task, model: nn.Module, criterion: str | Scorer | Criterion
) -> str | Scorer | Criterion:
    """Let a criterion of gradients take those of the task's loss, unless it was told another.

    Args:
        task: What the network is for.
        model: The network.
        criterion: A name, a callable, or what `choose` returned.
    """
    chosen = as_criterion(criterion)
    if chosen.needs != "gradients" or task.has_plain_targets or chosen.loss is not None:
        return criterion

    def loss(output: Any, batch: Batch) -> Tensor:
        return reduce(operator.add, task.loss(model, output, batch).values())

    return choose(chosen, loss=loss)
