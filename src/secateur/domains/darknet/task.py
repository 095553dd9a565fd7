"""Detection with Darknet's networks: YOLO's loss in named parts, COCO's mAP, the loader as a part.

A word that names data is "digits" (drawn scenes), a `.data` file, or a format and what it is read from, and
the side of the network's input where it is not 416: "digits@96", "hands.data", "coco:instances.json@320".
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from secateur.domains.darknet.data import Batch, Loader, digit_scenes, formats, loader, read
from secateur.domains.darknet.decoding import decode
from secateur.domains.darknet.evaluate import DetectionMeter
from secateur.domains.darknet.loss import distillation_loss, yolo_loss
from secateur.errors import RequestError
from secateur.train.figures import Figures
from secateur.train.parts import Data, Opening, Part, Parts
from secateur.train.task import Task, tasks

PARTS = ("box", "objectness", "classes")
"""Of the loss, by name."""


@dataclass(frozen=True)
class LoaderPart:
    """A loader as a part of a task's data; order, sizes and augmentation follow the loader's own seed.

    Attributes:
        loader: What makes the batches.
    """

    loader: Loader

    def __len__(self) -> int:
        return len(self.loader.samples)

    def batches(
        self,
        batch_size: int,
        *,
        training: bool = False,
        seed: int = 0,
        epoch: int = 0,
        workers: int = 0,
        pin_memory: bool = False,
    ) -> Iterable[Batch]:
        """Go through all images once; without training neither shuffled nor augmented."""
        own = self.loader
        workers = workers or own.workers
        if training and not own.training:
            what = "the training batches are not shuffled and not augmented"
            raise RequestError(what, do="pass loader(..., training=True)")
        if training:
            return replace(own, batch_size=batch_size, epoch=epoch, workers=workers)
        return replace(own, batch_size=batch_size, training=False, sizes=(), workers=workers)


class Detection(Task):
    """Boxes and classes of things in images.

    Args:
        box_loss: "mse", "iou", "giou", "diou" or "ciou"; None takes what each head's cfg says.
    """

    noun = "images"

    def __init__(self, box_loss: str | None = None) -> None:
        self.box_loss = box_loss

    def loss(self, model: Any, output: Any, batch: Batch) -> Mapping[str, Tensor]:
        """YOLO's loss: places and sizes, whether there is something, and what."""
        size = (batch.images.shape[2], batch.images.shape[3])
        loss = yolo_loss(output, model.heads, batch.targets, size, box_loss=self.box_loss)
        return {name: getattr(loss, name) for name in PARTS}

    def meter(self, model: Any, part: Part) -> "MapMeter":
        """Average precision of all classes."""
        return MapMeter(model, _loader_of(part))

    def inputs(self, batch: Batch) -> Tensor:
        """The images."""
        return batch.images

    def count(self, batch: Batch) -> int:
        """How many images could be read."""
        return len(batch)

    def pieces(self, batch: Batch, count: int) -> Sequence[Batch]:
        """Take a batch apart; a box knows its image by its place in the batch."""
        step = -(-len(batch) // count)
        pieces = []
        for start in range(0, len(batch), step):
            inside = (batch.targets[:, 0] >= start) & (batch.targets[:, 0] < start + step)
            targets = batch.targets[inside].clone()
            targets[:, 0] -= start
            images, frames = batch.images[start : start + step], batch.frames[start : start + step]
            pieces.append(replace(batch, images=images, targets=targets, frames=frames))
        return pieces

    def distance(self, model: Any, output: Any, wanted: Any, temperature: float) -> Tensor:
        """How far raw maps are from the teacher's, where that sees something."""
        return distillation_loss(output, wanted, model.heads)

    def require(self, model: nn.Module, part: Part, who: str = "model") -> None:
        """Refuse heads of another number of classes than the data have."""
        network: Any = getattr(model, "module", model)
        for head in network.heads:
            if head.classes != len(_loader_of(part).names):
                what = f"classes={head.classes}, the data set has {len(_loader_of(part).names)}"
                do = "write the data set's number, and filters=anchors * (5 + classes) before it"
                raise network.config.error(what, head.index, "classes", do=do)

    def recipe(self, data: Data) -> Mapping[str, Any]:
        """What the training loader adds to the run's settings."""
        train = _loader_of(data.train)
        sizes = [list(size) for size in train.sizes]
        return {"size": list(train.size), "sizes": sizes, "data seed": train.seed}

    def told(self, data: Data) -> Mapping[str, Any]:
        """The training images that could not be read, with the reason."""
        return {"broken": dict(_loader_of(data.train).broken)}

    def recall(self, data: Data, told: Mapping[str, Any]) -> None:
        """Remember the images that could not be read."""
        _loader_of(data.train).broken.update(told.get("broken", {}))

    def open(self, word: str, opening: Opening) -> Parts:
        """Open a data set: see the module."""
        text, _, side = word.partition("@")
        kind, _, path = text.partition(":")
        if not (side or "416").isdecimal():
            raise RequestError(f"the input of {word} is '{side}'", do="write pixels, such as @416")
        size = int(side or 416)
        if text == "digits":
            found = digit_scenes(train=1000, valid=250, size=size, seed=opening.seed)
        else:
            source = path if kind in formats else text
            folder = Path(source) if opening.data_dir is None else opening.data_dir / source
            found = read(folder, kind if kind in formats else "yolo")
        samples = (found["train"], found["valid"], found.parts.get("test") or found["valid"])
        train, valid, test = (
            LoaderPart(loader(chosen, found.names, size, training=at == 0, seed=opening.seed))
            for at, chosen in enumerate(samples)
        )
        return Parts(word, train, valid, test, {"class names": found.names})


tasks.add("darknet", Detection())


class MapMeter:
    """Decodes raw maps and compares the boxes with the labels.

    Args:
        model: The network, for its heads.
        loader: What is gone through.
    """

    def __init__(self, model: Any, loader: Loader) -> None:
        self.heads, self.loader = model.heads, loader
        self.meter = DetectionMeter(loader.names)

    def add(self, output: Any, batch: Batch) -> None:
        """Take in the raw maps of a batch."""
        size = (batch.images.shape[2], batch.images.shape[3])
        found = decode([raw.float() for raw in output], self.heads, size)
        self.meter.add(found.boxes.cpu(), found.scores.cpu(), batch)

    def figures(self) -> Figures:
        """MAP at IoU 0.5, which decides, and over IoU 0.5 to 0.95; of each class in the details."""
        found = self.meter.result(len(self.loader.samples))
        details = {"mAP50 per class": found.per_class, "boxes": found.boxes, "skipped": found.skipped}
        return Figures({"mAP50": found.map50, "mAP": found.map}, found.images, details=details)


def _loader_of(part: Any) -> Loader:
    if not isinstance(part, LoaderPart):
        what = f"the part is {type(part).__name__}, which has no images with boxes"
        raise RequestError(what, do="open it with the task, or pass LoaderPart(loader(...))")
    return part.loader
