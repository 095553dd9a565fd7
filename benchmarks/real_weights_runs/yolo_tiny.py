"""YOLOv3-tiny in PyTorch as anyone would write it, with Darknet's own weights.

Reads the sections and fields that this one architecture uses; anything else is an error.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

SIDE = 416
CLASSES = 80
Section = tuple[str, dict[str, str]]


def read_cfg(path: Path) -> list[Section]:
    """The sections of a Darknet configuration, the first one (`net`) left out."""
    sections: list[Section] = []
    for line in path.read_text().splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("["):
            sections.append((text.strip("[]"), {}))
        elif text:
            key, _, value = text.partition("=")
            sections[-1][1][key.strip()] = value.strip()
    return sections[1:]


class Route(nn.Module):
    """The outputs of earlier layers, concatenated."""

    def __init__(self, layers: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, seen: list[Tensor]) -> Tensor:
        """Concatenate along the channels."""
        return torch.cat([seen[index] for index in self.layers], 1)


class Decode(nn.Module):
    """A map of box predictions as boxes: centre and size as shares of the image, objectness, class shares."""

    def __init__(self, anchors: list[tuple[float, float]], classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.register_buffer("anchors", torch.tensor(anchors), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """From (n, anchors * (5 + classes), rows, columns) to (n, boxes, 5 + classes)."""
        batch, _, rows, columns = maps.shape
        maps = maps.view(batch, len(self.anchors), 5 + self.classes, rows, columns).permute(0, 1, 3, 4, 2)
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        cells = torch.stack([x, y], -1).to(maps)
        centres = (maps[..., 0:2].sigmoid() + cells) / torch.tensor([columns, rows]).to(maps)
        sizes = maps[..., 2:4].exp() * self.anchors[None, :, None, None] / SIDE
        boxes = torch.cat([centres, sizes, maps[..., 4:].sigmoid()], -1)
        return boxes.reshape(batch, -1, 5 + self.classes)


def _convolution(fields: dict[str, str], channels: int) -> nn.Sequential:
    size, width = int(fields["size"]), int(fields["filters"])
    normalised = fields.get("batch_normalize") == "1"
    block = nn.Sequential()
    padding = size // 2 if fields["pad"] == "1" else 0
    conv = nn.Conv2d(channels, width, size, int(fields["stride"]), padding, bias=not normalised)
    block.add_module("conv", conv)
    if normalised:
        block.add_module("bn", nn.BatchNorm2d(width, eps=1e-6))
    if fields["activation"] == "leaky":
        block.add_module("act", nn.LeakyReLU(0.1))
    elif fields["activation"] != "linear":
        raise ValueError(f"unknown activation {fields['activation']}")
    return block


def _pool(fields: dict[str, str]) -> nn.Module:
    size, stride = int(fields["size"]), int(fields["stride"])
    pool = nn.MaxPool2d(size, stride)
    # Darknet pads at the right and the bottom only, so that a stride of one keeps the size.
    return pool if stride == size else nn.Sequential(nn.ReplicationPad2d((0, size - 1, 0, size - 1)), pool)


def _decode(fields: dict[str, str]) -> Decode:
    numbers = [float(text) for text in fields["anchors"].split(",")]
    pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
    return Decode([pairs[int(index)] for index in fields["mask"].split(",")], int(fields["classes"]))


class YoloTiny(nn.Module):
    """The layers of a configuration; images (n, 3, 416, 416) from 0 to 1 in, boxes (n, 2535, 85) out."""

    def __init__(self, cfg: Path) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        widths: list[int] = []
        for kind, fields in read_cfg(cfg):
            width = widths[-1] if widths else 3
            if kind == "convolutional":
                layer: nn.Module = _convolution(fields, width)
                width = int(fields["filters"])
            elif kind == "maxpool":
                layer = _pool(fields)
            elif kind == "upsample":
                layer = nn.Upsample(scale_factor=int(fields["stride"]))
            elif kind == "route":
                given = [int(text) for text in fields["layers"].split(",")]
                layer = Route(tuple(index if index >= 0 else len(widths) + index for index in given))
                width = sum(widths[index] for index in layer.layers)
            elif kind == "yolo":
                layer = _decode(fields)
            else:
                raise ValueError(f"unknown section [{kind}]")
            self.layers.append(layer)
            widths.append(width)

    def forward(self, image: Tensor) -> Tensor:
        """All boxes of all scales."""
        seen: list[Tensor] = []
        for layer in self.layers:
            seen.append(layer(seen) if isinstance(layer, Route) else layer(seen[-1] if seen else image))
        return torch.cat(
            [out for layer, out in zip(self.layers, seen, strict=True) if isinstance(layer, Decode)], 1
        )


def load_darknet(model: YoloTiny, path: Path) -> None:
    """Fill a model with a `.weights` file: a header, then float32 values, layer by layer."""
    raw = path.read_bytes()
    major, minor, _ = struct.unpack_from("<3i", raw)
    values = np.frombuffer(raw, np.float32, offset=20 if (major, minor) >= (0, 2) else 16)
    at = 0
    with torch.no_grad():
        for tensor in _in_file_order(model):
            tensor.copy_(torch.from_numpy(values[at : at + tensor.numel()].copy()).view_as(tensor))
            at += tensor.numel()
    if at != len(values):
        raise ValueError(f"{path.name} holds {len(values):,} values, the model takes {at:,}")


def _in_file_order(model: YoloTiny) -> Iterator[Tensor]:
    for layer in model.layers:
        if isinstance(conv := getattr(layer, "conv", None), nn.Conv2d):
            norm = getattr(layer, "bn", None)
            if isinstance(norm, nn.BatchNorm2d):
                yield from (norm.bias, norm.weight, norm.running_mean, norm.running_var)
            else:
                yield conv.bias
            yield conv.weight


def load_yolo(folder: Path) -> YoloTiny:
    """The model of a folder with `yolov3-tiny.cfg` and `yolov3-tiny.weights`, in eval mode."""
    model = YoloTiny(folder / "yolov3-tiny.cfg")
    load_darknet(model, folder / "yolov3-tiny.weights")
    return model.eval()
