"""Work: a task together with its data, as commands carry them."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from secateur.score import Criterion
from secateur.score.criterion import Scorer
from secateur.train.evidence import criterion_of, paired
from secateur.train.parts import Opening, Part, Parts
from secateur.train.task import Task, find_task


@dataclass(frozen=True)
class Work:
    """A task with its data.

    Attributes:
        task: What a network is for.
        parts: What it is trained on and judged by.

    Example:
        >>> work = Work.open("classification", "digits")
        >>> work.name, len(work.test), work.example.shape, work.class_names[:3]
        ('digits', 359, torch.Size([1, 1, 8, 8]), ('0', '1', '2'))
    """

    task: Task
    parts: Parts

    @classmethod
    def open(cls, task: str, word: str, opening: Opening = Opening()) -> "Work":  # noqa: B008 - it is frozen
        """Open the data that a word names, by the task that another names.

        Args:
            task: As for `find_task`.
            word: As for `Task.open`.
            opening: Folder, download, seed, options.

        Raises:
            RequestError: One of them names nothing.
        """
        found = find_task(task)
        return cls(found, found.open(word, opening))

    @property
    def name(self) -> str:
        """What the data are called."""
        return self.parts.name

    @property
    def train(self) -> Part:
        """What the optimizer sees."""
        return self.parts.train

    @property
    def validation(self) -> Part:
        """What the best epoch is chosen by."""
        return self.parts.validation

    @property
    def test(self) -> Part:
        """What is reported."""
        return self.parts.test

    @property
    def example(self) -> Any:
        """Inputs of one sample."""
        return self.task.example(self.parts)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of classes, where the data have some."""
        return tuple(self.parts.details.get("class names", ()))

    def evidence(self, count: int, seed: int = 0) -> list[Any]:
        """Draw training samples for criteria and recovery steps, without augmentation.

        Args:
            count: How many; all if there are fewer.
            seed: Of the draw.
        """
        return [paired(self.task, batch) for batch in self.task.calibration(self.parts, count, seed)]

    def criterion(self, model: nn.Module, criterion: str | Scorer | Criterion) -> str | Scorer | Criterion:
        """A criterion that, where it takes gradients, takes those of the task's loss."""
        return criterion_of(self.task, model, criterion)
