"""Classification: logits, cross entropy, accuracy over all samples and for each class."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateur.domains.classification.by_name import load
from secateur.domains.classification.images import Images, Splits, labelled
from secateur.domains.classification.words import labelled_parts
from secateur.errors import RequestError
from secateur.train import distil
from secateur.train.figures import Figures
from secateur.train.parts import Opening, Part, Parts
from secateur.train.task import Batch, Task, tasks
from secateur.user_code import is_file_word


class Classification(Task):
    """Images, or anything else a network takes, with one label each.

    A part says how many classes there are, as `num_classes`.

    Example:
        >>> from secateur.zoo import models
        >>> task, digits = tasks["classification"], load("digits")
        >>> vgg = models["vgg11"](width=1 / 16, in_channels=1, image_size=8)
        >>> batch = next(iter(digits.train.batches(8)))
        >>> list(task.loss(vgg, vgg(batch[0]), batch))
        ['cross entropy']
    """

    noun = "images"

    has_plain_targets = True

    def open(self, word: str, opening: Opening) -> Parts:
        """Open a known data set, images of the user's own, or what a function in a file returns.

        Options of images are image_size, validation (a share) and flip; see `load`.
        """
        if is_file_word(word):
            return labelled_parts(super().open(word, opening))
        known = ("image_size", "validation", "flip")
        if opening.options.keys() - set(known):
            what = f"{', '.join(sorted(opening.options.keys() - set(known)))} is no option of images"
            raise RequestError(what, do=f"choose from {', '.join(known)}")
        data = load(
            word,
            data_dir=opening.data_dir,
            download=opening.download,
            seed=opening.seed,
            **opening.options,
        )
        return parts_of(data)

    def loss(self, model: nn.Module, output: Any, batch: Batch) -> Mapping[str, Tensor]:
        """The cross entropy, in nats."""
        logits, labels = logits_of(output, len(batch[1])), batch[1]
        return {"cross entropy": nn.functional.cross_entropy(logits, labels)}

    def watch(self, output: Any, batch: Batch) -> Mapping[str, Tensor]:
        """The share of the images that are classified right."""
        return {"accuracy": (output.detach().argmax(1) == batch[1]).float().mean()}

    def meter(self, model: nn.Module, part: Part) -> "ConfusionMeter":
        """Counts which class was taken for which."""
        return ConfusionMeter(_classes(part))

    def distance(self, model: nn.Module, output: Any, wanted: Any, temperature: float) -> Tensor:
        """How far softened probabilities are apart: see `soft_targets`."""
        ours, theirs = (logits_of(each, len(output)) for each in (output, wanted))
        if ours.shape != theirs.shape:
            raise RequestError(
                f"the teacher tells {theirs.shape[1]} classes apart, the student {ours.shape[1]}",
                do="choose a teacher with the same classes",
            )
        return distil.soft_targets(ours, theirs, temperature)

    def accept(self, output: Any, batch: Batch, part: Part) -> None:
        """Refuse what are no logits of the part's classes."""
        logits_of(output, len(batch[1]), _classes(part))

    def tell(self, figures: Figures, of: str) -> str:
        """Say how many images are right, where that decides."""
        if figures.name != "accuracy":
            return super().tell(figures, of)
        right = f"{figures.values['accuracy'] * 100:.2f} % of {figures.count:,} {of} images right"
        return f"{right}, loss {figures.values['loss']:.4f}"

    def model_arguments(self, parts: Parts) -> Mapping[str, Any]:
        """The number of classes, and channels and size of the images."""
        inputs = next(iter(parts.validation.batches(2)))[0]
        arguments = {"num_classes": _classes(parts.train)}
        if inputs.ndim != 4:
            return arguments
        return arguments | {"in_channels": inputs.shape[1], "image_size": inputs.shape[-1]}

    def calibration(self, parts: Parts, count: int, seed: int = 0) -> Sequence[Batch]:
        """Draw training images with their labels, without augmentation."""
        if isinstance(parts.train, Images):
            return labelled(parts.train, count, seed)
        return super().calibration(parts, count, seed)


tasks.add("classification", Classification())


class ConfusionMeter:
    """Counts how many samples of each class were taken for each class, and adds up their losses.

    Args:
        classes: How many classes there are.

    Example:
        >>> meter = ConfusionMeter(3)
        >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [2.0, 0.0, 0.0]])
        >>> meter.add(logits, (None, torch.tensor([0, 1, 1])))
        >>> found = meter.figures()
        >>> print(found, found.details["accuracy per class"])
        accuracy 0.6667, loss 0.9062 [1.0, 0.5, None]
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.loss = 0.0
        self.confusion = torch.zeros(0, 0, dtype=torch.long)

    def add(self, output: Any, batch: Batch) -> None:
        """Take in a batch."""
        labels = batch[1]
        logits = logits_of(output, len(labels), self.classes)
        self.loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
        width = logits.shape[1]
        pairs = (labels * width + logits.argmax(1)).bincount(minlength=width**2)
        counts = pairs.reshape(width, width).cpu()
        self.confusion = counts if not self.confusion.numel() else self.confusion + counts

    def figures(self) -> Figures:
        """Accuracy and mean loss; accuracy and confusion of each class in the details."""
        right, totals = (
            counts[: self.classes].tolist() for counts in (self.confusion.diagonal(), self.confusion.sum(1))
        )
        count = sum(totals)
        per_class = [hit / total if total else None for hit, total in zip(right, totals, strict=True)]
        details = {"accuracy per class": per_class, "confusion": self.confusion.tolist()}
        return Figures({"accuracy": sum(right) / count, "loss": self.loss / count}, count, details=details)


def logits_of(output: Any, count: int, classes: int = 1) -> Float[Tensor, "n classes"]:
    """Make sure that what a network returned are logits.

    Args:
        output: What it returned.
        count: Number of images.
        classes: The least number of outputs per image.

    Returns:
        The logits, in single precision.

    Raises:
        RequestError: It is no tensor of one row per image with enough outputs.
    """
    if not isinstance(output, Tensor):
        what = f"the model returns {type(output).__name__}, not a tensor of logits"
        raise RequestError(what, do="wrap it in a module that returns the logits")
    if output.ndim != 2 or len(output) != count or output.shape[1] < classes:
        expected = f"expected [{count}, {classes}]: one row per image, one column per class"
        do = "build the model with num_classes of the data set"
        raise RequestError(f"the model returns a tensor of shape {list(output.shape)}", [expected], do)
    return output.float()


def parts_of(data: Splits) -> Parts:
    """A data set as the parts of a task."""
    details = {"class names": data.spec.class_names}
    return Parts(data.spec.name, data.train, data.validation, data.test, details)


def _classes(part: Any) -> int:
    """How many classes a part says that it has."""
    classes = getattr(part, "num_classes", None)
    if not isinstance(classes, int):
        raise RequestError(
            f"the part ({type(part).__name__}) does not say how many classes there are",
            do="give it an attribute num_classes",
        )
    return classes
