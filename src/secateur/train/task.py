"""Task: what a network is for, as the engine, the sweeps and the commands need to know it.

A task opens data, says what a loss is and how good a network is. Nothing else in the library knows whether
it works on images and labels, on boxes or on text. Tasks are registered by the folders of `secateur.domains`;
one of your own is a class in a file of yours, `--task file.py:MyTask`:

    class Ages(Task):
        noun = "faces"

        def open(self, word, opening):
            return Parts(word, *(Faces(word, part) for part in ("train", "validation", "test")))

        def loss(self, model, output, batch):
            return {"squared error": (output[:, 0] - batch[1]).square().mean()}

        def scores(self, output, batch):
            return {"mean absolute error": (output[:, 0] - batch[1]).abs()}

        lower_is_better = True
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.errors import RequestError
from secateur.registry import Registry
from secateur.train.figures import Figures, MeanMeter, Meter
from secateur.train.own import parts_of
from secateur.train.parts import Batch, Data, DatasetPart, Opening, Part, Parts, generator_of
from secateur.user_code import from_file, is_file_word

__all__ = [
    "Batch",
    "Data",
    "DatasetPart",
    "Figures",
    "MeanMeter",
    "Meter",
    "Opening",
    "Part",
    "Parts",
    "Task",
    "find_task",
    "generator_of",
    "run_on",
    "tasks",
]


class Task(ABC):
    """What a network is for.

    `open`, `loss` and `scores` (or `meter`) are a task's own; the rest has defaults for batches whose first
    entry is what the network takes. A batch that is no tuple, list or dict of tensors has a method
    `to(device)`.

    Attributes:
        noun: What the samples are, in the plural, for messages.
        lower_is_better: Of the first of `scores`.
        has_plain_targets: Batches are pairs of inputs and targets, and the loss is the one that criteria take
            of such pairs anyway (`secateur.score.loss.default_loss`).
    """

    noun: str = "samples"
    lower_is_better: bool = False
    has_plain_targets: bool = False

    def open(self, word: str, opening: Opening) -> Parts:
        """Open the data that a word names; the default takes a function in a file, "file.py:function".

        Args:
            word: As typed after `--data`.
            opening: Folder, download, seed.

        Raises:
            RequestError: The word names nothing, or what it names is not as it should be.
        """
        if not is_file_word(word):
            what = f"'{word}' is no data of the task {type(self).__name__}"
            raise RequestError(what, do="name a function that returns datasets of PyTorch: file.py:function")
        return parts_of(word, opening)

    @abstractmethod
    def loss(self, model: nn.Module, output: Any, batch: Batch) -> Mapping[str, Tensor]:
        """Measure what is to be lowered.

        Args:
            model: The network, for what its output means.
            output: What it returned, in training mode.
            batch: What it was run on.

        Returns:
            Scalars by name, means over the batch; their sum is what is lowered. Always the same names.
        """

    def scores(self, output: Any, batch: Batch) -> Mapping[str, Tensor]:
        """Judge each sample of a batch; the means over a part are its figures.

        Args:
            output: What the network returned, in eval mode.
            batch: What it was run on.

        Returns:
            One value a sample, shape (samples,), by name; the first decides.
        """
        what = f"{type(self).__name__} does not say how good a network is"
        raise RequestError(what, do="write its method scores(output, batch), or meter(model, part)")

    def meter(self, model: nn.Module, part: Part) -> Meter:
        """What judges a network on a part; the default averages `scores`."""
        return MeanMeter(self)

    def watch(self, output: Any, batch: Batch) -> Mapping[str, Tensor]:
        """What else to average over the batches that are trained on, such as accuracy: scalars by name."""
        return {}

    def inputs(self, batch: Batch) -> Any:
        """What the network takes of a batch: a tensor, a tuple of positional inputs, or a dict by name."""
        return batch[0] if isinstance(batch, (tuple, list)) else batch

    def count(self, batch: Batch) -> int:
        """Number of samples in a batch."""
        return next(len(leaf) for leaf in pytree.tree_leaves(self.inputs(batch)) if isinstance(leaf, Tensor))

    def pieces(self, batch: Batch, count: int) -> Sequence[Batch]:
        """Take a batch apart into up to so many batches, for gradients that are accumulated over them."""
        size = self.count(batch)
        step = -(-size // count)
        return [_some(batch, start, start + step) for start in range(0, size, step)]

    def distance(self, model: nn.Module, output: Any, wanted: Any, temperature: float) -> Tensor:
        """Measure how far a network's output is from its teacher's: a scalar, the mean over the batch.

        Args:
            model: The network.
            output: What it returned, in training mode.
            wanted: What the teacher returned, in eval mode.
            temperature: As asked for, for outputs that it softens.
        """
        raise RequestError(
            f"the task {type(self).__name__} says nothing about how far a network is from its teacher",
            do="give it a method distance, or match features alone (weight 0)",
        )

    @property
    def has_distance(self) -> bool:
        """Whether a network can learn from what a teacher returns."""
        return type(self).distance is not Task.distance

    def require(self, model: nn.Module, part: Part, who: str = "model") -> None:
        """Run two samples through a model, in eval mode, before hours are spent on it.

        Args:
            model: The network; it is left in eval mode.
            part: Where the samples come from.
            who: What the network is, for messages.

        Raises:
            RequestError: The part is empty, or the model does not accept its samples.
        """
        if len(part) == 0:
            raise RequestError("the data set has an empty part", do="choose another data set or share")
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        batch = next(iter(part.batches(2)))
        inputs = pytree.tree_map_only(Tensor, lambda leaf: leaf.to(device), self.inputs(batch))
        model.eval()
        try:
            with torch.no_grad():
                self.accept(run_on(model, inputs), batch, part)
        except Exception as error:
            shapes = [list(leaf.shape) for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
            what = f"the {who} does not accept {self.noun} of shape {', '.join(map(str, shapes))}"
            first_line = str(error).partition("\n")[0]
            do = f"choose a {who} for these {self.noun}"
            raise RequestError(what, [f"{type(error).__name__}: {first_line}"], do) from error

    def accept(self, output: Any, batch: Batch, part: Part) -> None:
        """Refuse, with a `RequestError`, an output that is of no use for this task."""
        return

    def recipe(self, data: Data) -> Mapping[str, Any]:
        """Name what else decides the result of a run, as plain data: it goes on only with the same."""
        return {}

    def told(self, data: Data) -> Mapping[str, Any]:
        """What a checkpoint must remember of the data beside weights, as plain data."""
        return {}

    def recall(self, data: Data, told: Mapping[str, Any]) -> None:
        """Take up what `told` returned, as a run goes on."""
        return

    def example(self, parts: Parts) -> Any:
        """Example inputs of one sample, for coupling and costs."""
        batch = next(iter(parts.validation.batches(2)))
        return pytree.tree_map_only(Tensor, lambda leaf: leaf[:1], self.inputs(batch))

    def model_arguments(self, parts: Parts) -> Mapping[str, Any]:
        """Arguments of a zoo model that fit the data, such as the number of classes."""
        return {}

    def calibration(self, parts: Parts, count: int, seed: int = 0) -> Sequence[Batch]:
        """Draw training samples for criteria and recovery, without augmentation.

        Args:
            parts: The data.
            count: How many samples; all if there are fewer.
            seed: Of the draw.

        Returns:
            Batches of up to 64.
        """
        train = parts.train
        if isinstance(train, DatasetPart):
            order = torch.randperm(len(train), generator=generator_of(seed))[:count].tolist()
            items = [train.dataset[index] for index in order]
            return [train.collate(items[start : start + 64]) for start in range(0, len(items), 64)]
        batches, left = [], count
        for batch in train.batches(min(64, max(count, 1))):
            if left <= 0:
                break
            size = self.count(batch)
            batches.append(batch if size <= left else _some(batch, 0, left))
            left -= size
        return batches

    def tell(self, figures: Figures, of: str) -> str:
        """Say how good a network is, for people.

        Args:
            figures: How good.
            of: The part that it was judged by: "test".
        """
        return f"{figures} over {figures.count:,} {of} {self.noun}"

    def picture(self, model: nn.Module, part: Part, path: Path) -> Path | None:
        """Draw what the network makes of some samples; None where nothing can be drawn."""
        return None


tasks: Registry[Task] = Registry("task", "secateur.domains")
"""By name; the folders of `secateur.domains` register theirs when they are imported."""


def task_names() -> list[str]:
    """The names of the tasks that there are folders of; none is imported for it.

    Example:
        >>> task_names()[:2]
        ['classification', 'darknet']
    """
    return sorted(path.parent.name for path in Path(__file__).parents[1].glob("domains/*/task.py"))


def find_task(word: str) -> Task:
    """Find a task by its name, or make one of a class in a file.

    Args:
        word: "classification", "segmentation", ..., or "path/to/file.py:MyTask".

    Raises:
        RequestError: There is no such task, or what is there is none.

    Example:
        >>> find_task("clasification")
        Traceback (most recent call last):
        ...
        secateur.errors.RequestError: unknown task 'clasification'
          known: classification, ..., segmentation
          or a class of your own: path/to/file.py:MyTask
          did you mean 'classification'?
    """
    if not is_file_word(word):
        if word not in tasks:
            try:
                tasks[word]
            except RequestError as error:
                own = "or a class of your own: path/to/file.py:MyTask"
                raise RequestError(error.what, [*error.context, own], error.do) from None
        return tasks[word]
    kind = from_file(word, "task")
    try:
        made = kind()
    except Exception as error:
        missing = ", ".join(sorted(getattr(kind, "__abstractmethods__", ())))
        context = [f"it lacks {missing}"] if missing else [f"{type(error).__name__}: {error}"]
        do = "give it these methods" if missing else "write a class that is made without arguments"
        raise RequestError(f"no task can be made of {word}", context, do) from error
    if not isinstance(made, Task):
        what = f"{word} makes a {type(made).__name__}, which is no task"
        raise RequestError(what, do="derive its class from secateur.train.Task")
    return made


def run_on(model: Any, inputs: Any) -> Any:
    """Call a network on what `Task.inputs` returned.

    Example:
        >>> run_on(nn.Identity(), {"input": 3})
        3
    """
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


def _some(batch: Batch, start: int, stop: int) -> Batch:
    return pytree.tree_map_only(Tensor, lambda leaf: leaf[start:stop], batch)
