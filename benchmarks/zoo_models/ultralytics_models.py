"""YOLO and RT-DETR networks from the YAML files inside `ultralytics`, the smallest scale of each."""

from typing import Any

import torch
from torch import nn
from ultralytics.nn import tasks

SIDE = 64

NAMES = (
    "yolov3",
    "yolov3-tiny",
    "yolov3-spp",
    "yolov5n",
    "yolov5n-p6",
    "yolov6n",
    "yolov8n",
    "yolov8n-seg",
    "yolov8n-pose",
    "yolov8n-obb",
    "yolov8n-cls",
    "yolov8n-p2",
    "yolov8n-p6",
    "yolov8n-ghost",
    "yolov8n-world",
    "yolov8n-worldv2",
    "yolov8n-rtdetr",
    "yolov9t",
    "yolov9c-seg",
    "yolov10n",
    "yolo11n",
    "yolo11n-seg",
    "yolo11n-pose",
    "yolo11n-obb",
    "yolo11n-cls",
    "yolo12n",
    "yolo12n-seg",
    "yolo12n-pose",
    "yolo12n-cls",
    "yolo26n",
    "yolo26n-seg",
    "yolo26n-pose",
    "yolo26n-obb",
    "rtdetr-l",
    "rtdetr-resnet50",
)


def make(name: str) -> tuple[nn.Module, Any]:
    """The network of a YAML file, in eval mode, and an image."""
    kinds = {
        "-seg": tasks.SegmentationModel,
        "-pose": tasks.PoseModel,
        "-obb": tasks.OBBModel,
        "-cls": tasks.ClassificationModel,
        "-world": tasks.WorldModel,
        "-worldv2": tasks.WorldModel,
        "rtdetr": tasks.RTDETRDetectionModel,
    }
    kind = next((model for mark, model in kinds.items() if mark in name), tasks.DetectionModel)
    return kind(cfg=f"{name}.yaml", ch=3, verbose=False).eval(), torch.rand(1, 3, SIDE, SIDE)
