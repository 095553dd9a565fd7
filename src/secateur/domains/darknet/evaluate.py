"""How good a detector is: COCO's average precision, computed by faster-coco-eval through torchmetrics.

Detections are mapped back through the letterbox and compared with the labels in the pixels of the original
image, so figures at different input sizes mean the same thing. AP is the area under the precision-recall
curve at 101 recalls; mAP is its mean over the classes, at IoU 0.5 or over IoU 0.5 to 0.95 in steps of 0.05;
at most 100 boxes an image count. A detection of an ignored box (difficult, crowd) counts as nothing.

References:
    Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014. https://cocodataset.org/#detection-eval
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from secateur.domains.darknet.data.dataset import Batch, Frame, Loader
from secateur.errors import DataError, RequestError
from secateur.extras import Later

ops = Later("torchvision.ops")

Predict = Callable[[Float[Tensor, "b 3 h w"]], tuple[Float[Tensor, "b n 4"], Float[Tensor, "b n classes"]]]
"""From images to candidate boxes (left, top, right, bottom in pixels of the input) and their class scores."""


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in one image, best first.

    Args:
        boxes: Left, top, right and bottom in pixels.
        scores: Confidence from 0 to 1.
        classes: Class of each box, from 0.
    """

    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]
    classes: Int64[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True)
class DetectionFigures:
    """How a detector did.

    Args:
        map50: Mean average precision at IoU 0.5, from 0 to 1.
        map: Mean average precision over IoU 0.5 to 0.95, from 0 to 1.
        per_class: Average precision at IoU 0.5 of each class; None for a class without labelled boxes.
        images: Images looked at.
        boxes: Labelled boxes in them, without the ignored ones.
        skipped: Images that could not be read.
    """

    map50: float
    map: float
    per_class: dict[str, float | None]
    images: int
    boxes: int
    skipped: int = 0

    def __str__(self) -> str:
        skipped = f", {self.skipped:,} broken images left out" if self.skipped else ""
        head = f"mAP@0.5 {self.map50:.4f}, mAP@0.5:0.95 {self.map:.4f}"
        lines = [f"{head} ({self.boxes:,} boxes in {self.images:,} images{skipped})"]
        width = max((len(name) for name in self.per_class), default=0)
        for name, value in self.per_class.items():
            lines.append(f"  {name:<{width}}  {'no boxes' if value is None else f'{value:.4f}'}")
        return "\n".join(lines)


def detections(
    boxes: Float[Tensor, "b n 4"],
    scores: Float[Tensor, "b n classes"],
    conf: float = 0.25,
    iou: float = 0.45,
    most: int = 300,
) -> list[Detections]:
    """Keep the confident boxes and, among those of one class that overlap, the best.

    A candidate may be found as several classes, as in Darknet.

    Args:
        boxes: Candidates: left, top, right and bottom in pixels.
        scores: Confidence of each candidate for each class, from 0 to 1.
        conf: Smallest confidence.
        iou: Of two boxes of a class with a larger overlap (IoU), the less confident one is dropped.
        most: At most this many boxes an image.

    Returns:
        What was found, for each image.

    Raises:
        RequestError: A threshold outside [0, 1], or scores that do not belong to the boxes.

    Example:
        >>> boxes = torch.tensor([[[0.0, 0, 10, 10], [1, 0, 10, 10], [20, 20, 30, 30]]])
        >>> scores = torch.tensor([[[0.9, 0.0], [0.8, 0.0], [0.1, 0.7]]])
        >>> (found,) = detections(boxes, scores)
        >>> found.classes, found.scores
        (tensor([0, 1]), tensor([0.9000, 0.7000]))
    """
    if not (0 <= conf <= 1 and 0 <= iou <= 1):
        what = f"the thresholds are conf={conf} and iou={iou}"
        raise RequestError(what, ["allowed: 0 to 1"], "pass shares such as 0.25 and 0.45")
    if boxes.shape[:2] != scores.shape[:2] or boxes.shape[2:] != (4,):
        what = f"boxes of shape {tuple(boxes.shape)} and scores of shape {tuple(scores.shape)} do not fit"
        raise RequestError(what, do="pass (images, candidates, 4) and (images, candidates, classes)")
    found = []
    for candidates, confidence in zip(boxes, scores, strict=True):
        rows, classes = torch.nonzero(confidence > conf, as_tuple=True)
        chosen, best = candidates[rows].float(), confidence[rows, classes].float()
        kept = ops.batched_nms(chosen, best, classes, iou)[:most]
        found.append(Detections(chosen[kept], best[kept], classes[kept]))
    return found


class DetectionMeter:
    """Compares candidate boxes, batch by batch, with the labels.

    Args:
        names: Class names.
        conf: Smallest confidence. Average precision needs the unsure boxes too, so it is low.
        iou: Overlap (IoU) above which the less confident box of a class is dropped.
    """

    def __init__(self, names: Sequence[str], conf: float = 0.001, iou: float = 0.6) -> None:
        self.names, self.conf, self.iou = tuple(names), conf, iou
        self._metric = _metric()
        self.images = self.labelled = 0

    def add(self, boxes: Float[Tensor, "b n 4"], scores: Float[Tensor, "b n classes"], batch: Batch) -> None:
        """Take in the candidates of a batch that is not augmented.

        Raises:
            RequestError: Scores that have another number of classes than there are names.
        """
        if scores.shape[-1] != len(self.names):
            what = f"the detector has {scores.shape[-1]} classes, the data set {len(self.names)}"
            raise RequestError(what, [f"names: {', '.join(self.names[:10])}"], "use the cfg of this data set")
        found = detections(boxes, scores, self.conf, self.iou)
        truth = [_truth(frame) for frame in batch.frames]
        self._metric.update([_found(*pair) for pair in zip(found, batch.frames, strict=True)], truth)
        self.images += len(batch)
        self.labelled += sum(int((each["iscrowd"] == 0).sum()) for each in truth)

    def result(self, images: int) -> DetectionFigures:
        """How good the detector was.

        Args:
            images: How many there should have been; the others could not be read.

        Raises:
            DataError: None has a labelled box.
        """
        if not self.labelled:
            do = "check the label files"
            raise DataError(f"none of {self.images:,} images has a labelled box", do=do)
        return _evaluation(
            self._metric.compute(), self.names, (self.images, self.labelled, images - self.images)
        )


def evaluate(
    predict: Predict,
    loader: Loader,
    names: Sequence[str] | None = None,
    conf: float = 0.001,
    iou: float = 0.6,
) -> DetectionFigures:
    """Detect in all images of a loader and compare with their labels.

    Args:
        predict: The detector; it is called without gradients.
        loader: Batches that are not augmented.
        names: Class names; None takes the loader's.
        conf: Smallest confidence.
        iou: Overlap (IoU) above which the less confident box of a class is dropped.

    Returns:
        mAP and average precision by class; it prints well.

    Raises:
        RequestError: An augmented loader, or scores that have another number of classes than there are names.
        DataError: No image can be read, or none has a labelled box.
    """
    if loader.training:
        what = "the images of this loader are augmented, so boxes cannot be compared with the labels"
        raise RequestError(what, do="pass loader(..., training=False)")
    meter = DetectionMeter(loader.names if names is None else names, conf, iou)
    with torch.inference_mode():
        for batch in loader:
            meter.add(*predict(batch.images), batch)
    return meter.result(len(loader.samples))


def _metric() -> Any:
    from torchmetrics.detection import MeanAveragePrecision  # seconds of imports

    metric = MeanAveragePrecision(extended_summary=True, backend="faster_coco_eval")
    metric.warn_on_many_detections = False  # the low confidence is meant, and the hundred best count
    return metric


def _found(found: Detections, frame: Frame) -> dict[str, Tensor]:
    assert frame.letterbox is not None  # only augmented images have none
    boxes = frame.letterbox.back(found.boxes.cpu())
    return {"boxes": boxes, "scores": found.scores.cpu(), "labels": found.classes.cpu()}


def _truth(frame: Frame) -> dict[str, Tensor]:
    assert frame.letterbox is not None
    height, width = frame.letterbox.source
    labels = frame.sample.labels
    corners = ops.box_convert(labels.boxes, "cxcywh", "xyxy") * torch.tensor([width, height, width, height])
    return {"boxes": corners, "labels": labels.classes, "iscrowd": labels.ignored.long()}


def _evaluation(
    result: dict[str, Tensor], names: tuple[str, ...], counts: tuple[int, int, int]
) -> DetectionFigures:
    # Precision by IoU threshold (the first is 0.5), recall, class, area (the first is all) and number of
    # boxes (the last is 100); -1 where a class has no labelled box.
    precision = result["precision"][0, :, :, 0, -1]
    per_class: dict[str, float | None] = dict.fromkeys(names)
    for column, label in enumerate(result["classes"].reshape(-1).tolist()):
        if (precision[:, column] >= 0).all():
            per_class[names[label]] = precision[:, column].mean().item()
    images, labelled, skipped = counts
    return DetectionFigures(
        result["map_50"].item(), result["map"].item(), per_class, images, labelled, skipped
    )
