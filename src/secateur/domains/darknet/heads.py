"""What a yolo layer says about the map before it: anchors, classes, thresholds, where it stands."""

from dataclasses import dataclass

__all__ = ["Head"]


@dataclass(frozen=True)
class Head:
    """A yolo layer.

    Its map has the shape (batch, len(anchors) * (5 + classes), rows, columns); each anchor has the channels
    x, y, width, height, objectness, then the classes, all before their sigmoid or exponential.

    Attributes:
        index: The layer's number in the cfg.
        anchors: Width and height of the anchors that its mask selects, in pixels of the network's input.
        mask: Which of all anchors they are.
        all_anchors: The anchors of all heads; Darknet assigns a box to the best of them.
        classes: How many classes there are.
        stride: Pixels of the input for each cell of the map.
        ignore_thresh: A prediction that overlaps a box by more is no background even if it is not assigned.
        truth_thresh: A prediction that overlaps a box by more is assigned to it; 1 switches that off.
        scale_x_y: The sigmoid of x and y is stretched by this about its middle.
        iou_thresh: Anchors that overlap a box by more are assigned to it besides the best one; 1 means none.
        iou_loss: "mse", "iou", "giou", "diou" or "ciou".
        iou_normalizer: Weight of the box loss.
        cls_normalizer: Weight of the class loss.
        obj_normalizer: Weight of the objectness loss.

    Example:
        >>> from secateur.domains.darknet import Darknet
        >>> head = Darknet("yolov3-tiny").heads[0]
        >>> head.index, head.anchors, head.stride
        (16, ((81.0, 82.0), (135.0, 169.0), (344.0, 319.0)), 32)
    """

    index: int
    anchors: tuple[tuple[float, float], ...]
    mask: tuple[int, ...]
    all_anchors: tuple[tuple[float, float], ...]
    classes: int
    stride: int
    ignore_thresh: float = 0.5
    truth_thresh: float = 1.0
    scale_x_y: float = 1.0
    iou_thresh: float = 1.0
    iou_loss: str = "mse"
    iou_normalizer: float = 0.75
    cls_normalizer: float = 1.0
    obj_normalizer: float = 1.0

    @property
    def channels(self) -> int:
        """The channels of the map."""
        return len(self.anchors) * (5 + self.classes)
