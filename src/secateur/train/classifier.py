"""What the loop and the evaluation know about classifiers: data parts, logits, where and how they run.

A data set is anything that has the attributes of the two protocols, so that the loop need not know where
images come from. Neither has a test part: what is trained cannot see it.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateur.errors import RequestError

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Part(Protocol):
    """Labelled inputs that can be gone through in batches."""

    @property
    def num_classes(self) -> int:
        """Number of different labels."""

    def __len__(self) -> int: ...

    def batches(
        self,
        batch_size: int,
        *,
        training: bool = False,
        seed: int = 0,
        epoch: int = 0,
        workers: int = 0,
        pin_memory: bool = False,
    ) -> Iterable[tuple[Tensor, Tensor]]:
        """Go through all inputs once; the iterable has a length."""


class Data(Protocol):
    """What a model is trained on and what its best epoch is chosen by."""

    @property
    def train(self) -> Part:
        """What the optimizer sees."""

    @property
    def validation(self) -> Part:
        """What the best epoch is chosen by."""


def logits_of(model: Callable[[Tensor], Any], images: Tensor, num_classes: int) -> Float[Tensor, "n classes"]:
    """Run a classifier and make sure that it is one.

    Args:
        model: The classifier.
        images: A batch.
        num_classes: The least number of outputs per image.

    Returns:
        The model's output, in single precision.

    Raises:
        RequestError: The model returns no tensor of one row per image with enough outputs.
    """
    logits = model(images)
    if not isinstance(logits, Tensor):
        what = f"the model returns {type(logits).__name__}, not a tensor of logits"
        raise RequestError(what, do="wrap it in a module that returns the logits")
    if logits.ndim != 2 or len(logits) != len(images) or logits.shape[1] < num_classes:
        expected = f"expected [{len(images)}, {num_classes}]: one row per image, one column per class"
        do = "build the model with num_classes of the data set"
        raise RequestError(f"the model returns a tensor of shape {list(logits.shape)}", [expected], do)
    return logits.float()


def require_classifier(model: nn.Module, part: Part) -> None:
    """Run two images through a model, in eval mode, before hours are spent on it.

    Args:
        model: The classifier; its mode is left in eval.
        part: Where the images come from.

    Raises:
        RequestError: The part is empty, the model does not accept its images, or returns no logits.
    """
    if len(part) == 0:
        raise RequestError("the data set has an empty part", do="choose another data set or share")
    images, _ = next(iter(part.batches(2)))
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    model.eval()
    try:
        with torch.no_grad():
            logits_of(model, images.to(device), part.num_classes)
    except Exception as error:
        what = f"the model does not accept images of shape {list(images.shape)}"
        first_line = str(error).partition("\n")[0]
        do = "build the model for the data set's channels and image size"
        raise RequestError(what, [f"{type(error).__name__}: {first_line}"], do) from error


def choose_device(device: str) -> torch.device:
    """Find the device that a word means.

    Args:
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1" or "mps".

    Raises:
        RequestError: The device is unknown or absent.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    kind, _, index = device.partition(":")
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind == "auto":
        kind = next(name for name in ("cuda", "mps", "cpu") if present[name])
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if kind not in present or (index and not (index.isdecimal() and kind == "cuda")):
        raise RequestError(
            f"unknown device '{device}'", ["known: auto, cpu, cuda, cuda:N, mps"], "pass one of them"
        )
    if not present[kind] or int(index or 0) >= count:
        raise RequestError(
            f"device '{device}' was asked for, but torch does not see it", do="pass cpu or auto"
        )
    return torch.device(kind, int(index or 0)) if kind == "cuda" else torch.device(kind)


def make_fabric(device: str, precision: str) -> "Fabric":
    """Set up Lightning Fabric for one device.

    Args:
        device: As for `choose_device`.
        precision: One of Fabric's names.

    Returns:
        The set-up.

    Raises:
        RequestError: The device is unknown or absent, or cannot do the precision.
    """
    chosen = choose_device(device)
    if precision == "16-mixed" and chosen.type == "cpu":
        raise RequestError("precision 16-mixed was asked for on the cpu", do="pass bf16-mixed or 32-true")
    from lightning_fabric import Fabric  # seconds of imports, which --help does not need

    options: Any = {"devices": 1 if chosen.index is None else [chosen.index], "precision": precision}
    return Fabric(accelerator=chosen.type, **options)


@contextlib.contextmanager
def surroundings(fabric: "Fabric", threads: int | None) -> Iterator[None]:
    """Give back torch's random state and number of threads as they were."""
    before = torch.get_num_threads()
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)
