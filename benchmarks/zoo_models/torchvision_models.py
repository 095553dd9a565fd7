"""Every architecture that torchvision registers, for every task, with random weights and small inputs."""

from typing import Any

import torch
import torchvision
from torch import nn

SIDE = 64
DETECTORS = ("rcnn", "retinanet", "fcos", "ssd")
OTHER_SIDES = {"inception_v3": 96, "quantized_inception_v3": 96, "maxvit_t": 224}
CLIPS = {"mvit_v1_b": (16, 224), "mvit_v2_s": (16, 224), "s3d": (16, 224)}
VIDEO = (*CLIPS, "mc3_18", "r2plus1d_18", "r3d_18", "swin3d_b", "swin3d_s", "swin3d_t")

NAMES = tuple(torchvision.models.list_models())


def _detector(name: str) -> tuple[nn.Module, Any]:
    """A detector that keeps its best boxes whatever their scores: random weights score low."""
    threshold = "box_score_thresh" if "rcnn" in name else "score_thresh"
    settings: dict[str, Any] = {threshold: 0.0}
    if "rcnn" in name:  # the heads run on every box that is kept: a thousand take minutes in float64
        settings |= {"rpn_post_nms_top_n_test": 50, "box_detections_per_img": 10}
    if "ssd" not in name:
        settings |= {"min_size": 96, "max_size": 96}
    side = 96 if "ssd" not in name else 320 if "lite" in name else 300
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, **settings)
    return model, ([torch.rand(3, side, side)],)


def make(name: str) -> tuple[nn.Module, Any]:
    """The model of a name, in eval mode, and its example inputs."""
    if any(kind in name for kind in DETECTORS):
        model, inputs = _detector(name)
        return model.eval(), inputs
    if name.startswith("raft"):
        pair = (torch.rand(1, 3, 128, 128), torch.rand(1, 3, 128, 128))
        return torchvision.models.get_model(name, weights=None).eval(), pair
    settings: dict[str, Any] = {"weights": None}
    side = OTHER_SIDES.get(name, SIDE)
    if name.startswith("vit_"):
        side = settings["image_size"] = 70 if name.endswith("14") else SIDE
    if name.startswith(("deeplab", "fcn", "lraspp")):
        settings["weights_backbone"] = None
    model = torchvision.models.get_model(name, **settings).eval()
    if name in VIDEO:
        frames, side = CLIPS.get(name, (8, SIDE))
        return model, torch.rand(1, 3, frames, side, side)
    return model, torch.rand(2, 3, side, side)
