"""Ultralytics' trainers with the network that they are given in place of one that they build.

The classes have names of their own in this module, because a training on several GPUs names its trainer in a
pickle for the processes that it starts.
"""

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from ultralytics.models.rtdetr.train import RTDETRTrainer
from ultralytics.models.yolo.classify import ClassificationTrainer
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.models.yolo.obb import OBBTrainer
from ultralytics.models.yolo.pose import PoseTrainer
from ultralytics.models.yolo.segment import SegmentationTrainer
from ultralytics.nn.modules import Classify, Detect, RTDETRDecoder, WorldDetect, YOLOEDetect
from ultralytics.nn.modules.utils import bias_init_with_prob

from secateur.errors import RequestError
from secateur.plans.memory import forget


class KeepsCut:
    """Makes a trainer take the network that it gets; stands before a trainer among the bases.

    Raises:
        RequestError: The training would build the whole network anew, or its data do not fit the network.
    """

    args: Any
    data: dict[str, Any]

    def get_model(self, cfg: Any = None, weights: nn.Module | None = None, verbose: bool = True) -> nn.Module:
        """A copy of a network, for the classes of the data.

        Args:
            cfg: The YAML that Ultralytics would build; not read.
            weights: The network.
            verbose: Not used.
        """
        if weights is None or isinstance(self.args.pretrained, (str, Path)):
            why = "no weights of a .pt" if weights is None else f"pretrained={self.args.pretrained}"
            raise RequestError(
                "the network would be built whole from its YAML, and the cut be lost",
                [f"model: {self.args.model}, {why}"],
                'open the .pt that holds the cut, YOLO("half.pt"), and leave pretrained= out',
            )
        model = copy.deepcopy(weights).float().requires_grad_(True)
        self._fit_to_data(model)
        if getattr(self.args, "dropout", None):
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = self.args.dropout
        return model

    def _fit_to_data(self, model: Any) -> None:
        """Let a network score the classes of the data."""
        channels, keypoints = model.yaml.get("channels", 3), self.data.get("kpt_shape")
        if channels != self.data["channels"]:
            raise RequestError(
                f"the network takes {channels} channels, the images have {self.data['channels']}",
                do="train on images of as many channels",
            )
        if keypoints is not None and list(keypoints) != list(model.kpt_shape):
            raise RequestError(
                f"the network finds keypoints of {list(model.kpt_shape)}, the data have {list(keypoints)}",
                do="train on data of the same keypoints",
            )
        before, whence = model.state_dict(), copy.copy(model)
        set_classes(model, self.data["names"])
        if getattr(self.args, "cls_remap", False):
            model._remap_cls_by_names(before, whence)


def set_classes(model: Any, names: Mapping[int, str]) -> None:
    """Give a network other classes, in place; for another number of them, with new layers that score them.

    Args:
        model: A network of Ultralytics.
        names: The classes by number, from 0.

    Raises:
        RequestError: Its head is none that is known.
    """
    head, count = model.model[-1], len(names)
    model.names = dict(names)
    if count == model.yaml["nc"]:
        return
    forget(model)
    match head:
        case WorldDetect() | YOLOEDetect():
            raise RequestError(
                f"the network has a {type(head).__name__}, whose classes are words",
                do="train it on data with the same classes",
            )
        case Detect():
            for scores in filter(None, (head.cv3, getattr(head, "one2one_cv3", None))):
                for branch, stride in zip(scores, head.stride.tolist(), strict=True):
                    rate = 5 / count / (640 / stride) ** 2  # as `Detect.bias_init`: a few objects an image
                    branch[-1] = _like(
                        branch[-1], nn.Conv2d(branch[-1].in_channels, count, 1), math.log(rate)
                    )
            if (semantic := getattr(getattr(head, "proto", None), "semseg", None)) is not None:
                semantic[-1] = _like(semantic[-1], nn.Conv2d(semantic[-1].in_channels, count, 1))
            head.no += count - head.nc
            head.nc = count
        case Classify():
            head.linear = _like(head.linear, nn.Linear(head.linear.in_features, count))
        case RTDETRDecoder():
            width = head.denoising_class_embed.embedding_dim
            head.denoising_class_embed = _like(head.denoising_class_embed, nn.Embedding(count, width))
            bias = bias_init_with_prob(0.01) / 80 * count  # as `RTDETRDecoder._reset_parameters`
            first = head.enc_score_head
            head.enc_score_head = _like(first, nn.Linear(first.in_features, count), bias)
            for at in range(len(head.dec_score_head)):
                score: Any = head.dec_score_head[at]
                head.dec_score_head[at] = _like(score, nn.Linear(score.in_features, count), bias)
            head.nc = count
        case _:
            raise RequestError(
                f"the classes of a {type(head).__name__} cannot be made others",
                do="train it on data with the same classes",
            )
    model.yaml["nc"] = model.nc = count


def _like(old: nn.Module, new: Any, bias: float | None = None) -> Any:
    """A layer on the device of another; its bias filled."""
    if bias is not None:
        nn.init.constant_(new.bias, bias)
    return new.to(next(old.parameters()).device)


class PrunedDetectionTrainer(KeepsCut, DetectionTrainer):
    """Detection."""


class PrunedSegmentationTrainer(KeepsCut, SegmentationTrainer):
    """Instance segmentation."""


class PrunedPoseTrainer(KeepsCut, PoseTrainer):  # type: ignore[misc]
    """Keypoints."""


class PrunedOBBTrainer(KeepsCut, OBBTrainer):  # type: ignore[misc]
    """Rotated boxes."""


class PrunedClassificationTrainer(KeepsCut, ClassificationTrainer):
    """Classification."""


class PrunedRTDETRTrainer(KeepsCut, RTDETRTrainer):
    """Detection with a transformer."""


KINDS: tuple[type, ...] = (
    PrunedDetectionTrainer,
    PrunedSegmentationTrainer,
    PrunedPoseTrainer,
    PrunedOBBTrainer,
    PrunedClassificationTrainer,
    PrunedRTDETRTrainer,
)
"""Each stands for the trainer that is its last base."""
