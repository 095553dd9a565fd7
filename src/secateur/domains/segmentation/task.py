"""What segmentation is: cross entropy of every pixel, judged by the mean IoU.

    IoU(c) = pixels of class c that were answered c / pixels of class c or answered c
    mean IoU = mean of IoU(c) over the classes that occur, in the masks or in the answers

References:
    Everingham et al., "The Pascal Visual Object Classes Challenge", IJCV 2015, section 4.2.
    https://doi.org/10.1007/s11263-014-0733-5
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.domains.segmentation.folders import IGNORED, MaskedImages, open_folder
from secateur.errors import RequestError
from secateur.extras import extra
from secateur.train.task import Batch, Figures, Meter, Opening, Part, Parts, Task, generator_of, tasks
from secateur.user_code import is_file_word
from secateur.write.atomic import atomic_write

AUXILIARY = 0.5
"""Weight of the loss of an auxiliary head, as torchvision trains its own."""


class Segmentation(Task):
    """A class for every pixel."""

    noun = "images"

    def open(self, word: str, opening: Opening) -> Parts:
        """Open a folder of images and masks, or what a function in a file returns.

        Datasets of one's own yield pairs of an image and a mask of class numbers, int64, 255 for none.
        """
        if is_file_word(word):
            return super().open(word, opening)
        if not Path(word).is_dir():
            raise RequestError(
                f"there is no folder {word}",
                ["segmentation takes a folder: mydata/images/1.jpg with mydata/masks/1.png",
                 "or a function that returns datasets of PyTorch: --data file.py:function"],
                f"check the path; it is looked for in {Path.cwd()}",
            )  # fmt: skip
        return open_folder(word, opening)

    def loss(self, model: nn.Module, output: Any, batch: Batch) -> Mapping[str, Tensor]:
        """Cross entropy over the pixels that have a class, and that of an auxiliary head."""
        losses = {"cross entropy": _cross_entropy(output, batch[1])}
        if isinstance(output, Mapping) and isinstance(output.get("aux"), Tensor):
            losses["auxiliary"] = AUXILIARY * _cross_entropy(output["aux"], batch[1])
        return losses

    def meter(self, model: nn.Module, part: Part) -> Meter:
        """Counts pixels by class and answer."""
        return _Confusion()

    def model_arguments(self, parts: Parts) -> Mapping[str, Any]:
        """How many classes there are, where the data say."""
        names = parts.details.get("class names")
        return {} if names is None else {"num_classes": len(names)}

    def calibration(self, parts: Parts, count: int, seed: int = 0) -> Sequence[Batch]:
        """Draw training images without mirroring them."""
        if not isinstance(parts.train, MaskedImages):
            return super().calibration(parts, count, seed)
        order = torch.randperm(len(parts.train), generator=generator_of(seed))[:count]
        return [parts.train.batch(chosen) for chosen in order.split(64)]

    def picture(self, model: nn.Module, part: Part, path: Path) -> Path:
        """Draw the classes over some images: the answers above, the masks below."""
        with extra("train", "segmentation tasks"):
            from torchvision.transforms.v2.functional import to_pil_image
            from torchvision.utils import draw_segmentation_masks, make_grid

        images, masks = next(iter(part.batches(4)))
        device = next(model.parameters()).device
        with torch.inference_mode():
            scores = logits_of(model.eval()(images.to(device)), masks.shape[-2:]).cpu()
        shown = [_as_seen(image) for image in images]
        count = scores.shape[1]
        rows = [
            draw_segmentation_masks(image, numbers == torch.arange(count)[:, None, None], alpha=0.5)
            for drawn in (scores.argmax(1), masks)
            for image, numbers in zip(shown, drawn, strict=True)
        ]
        grid = to_pil_image(make_grid(torch.stack(rows), nrow=len(shown)))
        atomic_write(path, lambda file: grid.save(file, format="PNG"))
        return path


tasks.add("segmentation", Segmentation())


def logits_of(output: Any, size: Sequence[int]) -> Float[Tensor, "n classes h w"]:
    """The scores of the classes at every pixel, in single precision.

    Args:
        output: A tensor, a dict with `out` or `logits`, or an object with logits; scaled up to the masks
            where it is smaller.
        size: Height and width of the masks.

    Raises:
        RequestError: The model returns something else.

    Example:
        >>> logits_of({"out": torch.zeros(2, 5, 4, 4)}, (8, 8)).shape
        torch.Size([2, 5, 8, 8])
    """
    if isinstance(output, Mapping):
        output = output.get("out", output.get("logits"))
    scores = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(scores, Tensor) or scores.ndim != 4:
        told = (
            f"a tensor of shape {list(scores.shape)}" if isinstance(scores, Tensor) else type(output).__name__
        )
        what = f"the model returns {told}, no scores of classes for every pixel"
        raise RequestError(what, do="return [images, classes, height, width], alone or as `out` of a dict")
    if scores.shape[-2:] != torch.Size(size):
        scores = F.interpolate(scores, size=tuple(size), mode="bilinear", align_corners=False)
    return scores.float()


def _cross_entropy(output: Any, masks: Int64[Tensor, "n h w"]) -> Tensor:
    scores = logits_of(output, masks.shape[-2:])
    _require_classes(scores, masks)
    if not bool((masks != IGNORED).any()):
        return 0.0 * scores.sum()  # a mean over no pixel is no number
    return F.cross_entropy(scores, masks, ignore_index=IGNORED)


def _require_classes(scores: Tensor, masks: Tensor) -> None:
    largest = int(masks[masks != IGNORED].max()) if bool((masks != IGNORED).any()) else -1
    if largest >= scores.shape[1]:
        what = f"the model knows {scores.shape[1]} classes, a mask holds class {largest}"
        raise RequestError(what, do="build the model with as many classes as the masks have")


class _Confusion:
    """Counts pixels by class and answer, and adds up the loss."""

    def __init__(self) -> None:
        self.counts: Tensor | None = None
        self.loss = 0.0
        self.images = 0

    def add(self, output: Any, batch: Batch) -> None:
        """Take in a batch."""
        with extra("train", "segmentation tasks"):
            from torchmetrics.functional.classification import (
                multiclass_confusion_matrix,  # seconds of imports
            )

        masks = batch[1]
        scores = logits_of(output, masks.shape[-2:])
        _require_classes(scores, masks)
        self.loss += F.cross_entropy(scores, masks, ignore_index=IGNORED, reduction="sum").item()
        self.images += len(masks)
        found = multiclass_confusion_matrix(
            scores.argmax(1), masks, scores.shape[1], ignore_index=IGNORED
        ).cpu()
        self.counts = found if self.counts is None else self.counts + found

    def figures(self) -> Figures:
        """Mean IoU, pixel accuracy and loss; the IoU of each class is in the details."""
        if self.counts is None or not int(self.counts.sum()):
            raise RequestError("no pixel has a class", do="look at the masks: 255 is left out")
        right = self.counts.diagonal().double()
        union = self.counts.sum(0) + self.counts.sum(1) - right
        shares = [float(hit / total) if total else None for hit, total in zip(right, union, strict=True)]
        occurring = [share for share in shares if share is not None]
        pixels = int(self.counts.sum())
        values = {
            "mean IoU": sum(occurring) / len(occurring),
            "pixel accuracy": float(right.sum()) / pixels,
            "loss": self.loss / pixels,
        }
        return Figures(values, self.images, details={"IoU per class": shares})


def _as_seen(image: Tensor) -> Tensor:
    """A normalised image as colours from 0 to 255."""
    low, high = image.amin(), image.amax()
    grey = ((image - low) / (high - low).clamp(min=1e-9) * 255).to(torch.uint8)
    return grey.expand(3, -1, -1) if len(grey) == 1 else grey[:3]
