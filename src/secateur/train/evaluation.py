"""How good a classifier is on one part of a data set."""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from secateur.train.classifier import (
    Part,
    logits_of,
    make_fabric,
    require_classifier,
    surroundings,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Evaluation:
    """How a classifier did.

    Args:
        accuracy: Share of the images that were classified right, from 0 to 1.
        loss: Mean cross entropy in nats.
        per_class_accuracy: The same share among the images of each class; None for a class without images.
        n: Number of images.
    """

    accuracy: float
    loss: float
    per_class_accuracy: tuple[float | None, ...]
    n: int

    def __str__(self) -> str:
        return f"{self.accuracy * 100:.2f} % of {self.n:,} images right, loss {self.loss:.4f}"


def evaluate(
    model: nn.Module,
    part: Part,
    *,
    batch_size: int = 256,
    device: str = "auto",
    precision: str = "32-true",
    threads: int | None = None,
) -> Evaluation:
    """Classify all images of one part of a data set.

    Args:
        model: The classifier; it is copied, so its device, mode and memory format stay what they are.
        part: Such as `splits.test`.
        batch_size: Images per batch; the result does not depend on it.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" or "mps".
        precision: "32-true", "bf16-mixed" or, on a GPU, "16-mixed".
        threads: Threads of the CPU; None leaves torch's setting.

    Returns:
        Accuracy (a share), loss, and accuracy per class.

    Raises:
        RequestError: The model does not accept the images or returns no logits, or the device is absent.

    Example:
        >>> from secateur.domains.classification import load
        >>> from secateur.zoo import models
        >>> digits = load("digits")
        >>> evaluation = evaluate(models["vgg11"](width=1 / 16, in_channels=1, image_size=8), digits.test)
        >>> evaluation.n, 0 <= evaluation.accuracy <= 1
        (359, True)
    """
    fabric = make_fabric(device, precision)
    model = copy.deepcopy(model).to(memory_format=torch.channels_last)
    module = fabric.setup_module(model)
    with surroundings(fabric, threads):
        require_classifier(module, part)
        return evaluate_module(fabric, module, part, batch_size, torch.channels_last)


def evaluate_module(
    fabric: "Fabric", module: nn.Module, part: Part, batch_size: int, layout: torch.memory_format
) -> Evaluation:
    """Classify all images with a module that Fabric has set up; leaves it in eval mode.

    Args:
        fabric: The set-up.
        module: What `fabric.setup_module` returned.
        part: The images.
        batch_size: Images per batch.
        layout: Memory format of the images.

    Returns:
        Accuracy (a share), loss, and accuracy per class.
    """
    from torchmetrics.functional.classification import multiclass_confusion_matrix  # seconds of imports

    module.eval()
    classes = part.num_classes
    loss = torch.zeros((), dtype=torch.float64)
    confusion: Tensor | None = None
    with torch.inference_mode():
        for images, labels in part.batches(batch_size):
            images = fabric.to_device(images.contiguous(memory_format=layout))
            labels = fabric.to_device(labels)
            logits = logits_of(module, images, classes)
            loss += nn.functional.cross_entropy(logits, labels, reduction="sum").cpu().double()
            counts = multiclass_confusion_matrix(logits.argmax(1), labels, logits.shape[1]).cpu()
            confusion = counts if confusion is None else confusion + counts
    assert confusion is not None  # a part is never empty, see require_classifier
    right, totals = confusion.diagonal()[:classes].tolist(), confusion.sum(1)[:classes].tolist()
    n = sum(totals)
    per_class = tuple(hit / total if total else None for hit, total in zip(right, totals, strict=True))
    return Evaluation(sum(right) / n, loss.item() / n, per_class, n)
