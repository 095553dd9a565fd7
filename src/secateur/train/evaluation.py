"""How good a network is on one part of a data set."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.capture.layouts import in_layout
from secateur.train.device import make_fabric, surroundings
from secateur.train.figures import Figures
from secateur.train.task import Part, Task, run_on, tasks

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
    task = tasks["classification"]
    found = judge(
        model, part, task, batch_size=batch_size, device=device, precision=precision, threads=threads
    )
    per_class: Sequence[float | None] = found.details["accuracy per class"]
    return Evaluation(found.values["accuracy"], found.values["loss"], tuple(per_class), found.count)


def judge(
    model: nn.Module,
    part: Part,
    task: Task,
    *,
    batch_size: int = 256,
    device: str = "auto",
    precision: str = "32-true",
    threads: int | None = None,
) -> Figures:
    """Measure how good a network is on one part of a task's data.

    Args:
        model: The network; it is copied, so its device, mode and memory format stay what they are.
        part: Such as `parts.test`.
        task: What the network is for.
        batch_size: Samples per batch.
        device: As for `evaluate`.
        precision: As for `evaluate`.
        threads: Threads of the CPU; None leaves torch's setting.

    Returns:
        The task's figures, the deciding one first.

    Raises:
        RequestError: The model does not accept the samples, or the device is absent.
    """
    fabric = make_fabric(device, precision)
    model = copy.deepcopy(model).to(memory_format=torch.channels_last)
    module = fabric.setup_module(model)
    with surroundings(fabric, threads):
        task.require(module, part)
        return judge_module(fabric, module, part, task, batch_size, torch.channels_last)


def judge_module(
    fabric: "Fabric", module: Any, part: Part, task: Task, batch_size: int, layout: torch.memory_format
) -> Figures:
    """Measure a module that Fabric has set up; leaves it in eval mode.

    Args:
        fabric: The set-up.
        module: What `fabric.setup_module` returned.
        part: The samples.
        task: What the network is for.
        batch_size: Samples per batch.
        layout: Memory format of images.

    Returns:
        The task's figures.
    """
    module.eval()
    meter = task.meter(module.module, part)
    with torch.inference_mode():
        for batch in part.batches(batch_size):
            moved = fabric.to_device(batch)
            meter.add(run_on(module, laid_out(task.inputs(moved), layout)), moved)
    return meter.figures()


def laid_out(inputs: Any, layout: torch.memory_format) -> Any:
    """Inputs in a memory format, as far as they have the four dims of images.

    Example:
        >>> laid_out(torch.zeros(1, 3, 4, 4), torch.channels_last).stride()
        (48, 1, 12, 3)
    """
    return pytree.tree_map_only(
        Tensor, lambda leaf: in_layout(leaf, layout) if leaf.dim() == 4 else leaf, inputs
    )
