"""A Darknet network as an ordinary module: raw maps out, one for each yolo layer.

Boxes are decoded outside, in `decode.py`, so that pruning sees convolutions and raw numbers can be compared
with other programs'. Parameters carry Darknet's layer numbers: `layers.12.conv.weight` is that of layer 12.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateur.domains.darknet.cfg import Config, read_cfg
from secateur.domains.darknet.header import Header
from secateur.domains.darknet.heads import Head
from secateur.domains.darknet.layers import (
    IMAGE,
    MOST_PARAMETERS,
    Layer,
    SectionPlace,
    Shape,
    input_place,
    kinds,
)
from secateur.errors import RequestError

__all__ = ["EPS", "Darknet"]

EPS = 1e-6
"""What batch normalisation adds to the variance: OpenCV's value; see `Darknet`."""

_MOST_SECTIONS = 4096


class Darknet(nn.Module):
    """The network of a cfg.

    Args:
        config: A cfg, its file, or the name of a bundled one.
        eps: What batch normalisation adds to the variance. The programs disagree: pjreddie's Darknet adds
            1e-6 to the *deviation* on the CPU and 1e-5 to the variance on the GPU, AlexeyAB's 1e-5 to the
            variance, OpenCV 1e-6. They differ visibly only for channels that hardly vary.

    Attributes:
        config: The cfg; after a cut still that of the dense network, `export` gives the new one.
        heads: The yolo layers, in the order of the maps.
        header: The header of the weights that were loaded last, to be written again.
        stride: The input's sides must be multiples of this.

    Raises:
        RequestError: A section is unknown, or does not fit the ones before it; the message has file and line.

    Example:
        >>> import torch
        >>> model = Darknet("yolov3-tiny")
        >>> [tuple(maps.shape) for maps in model(torch.zeros(1, 3, 96, 64))]
        [(1, 255, 3, 2), (1, 255, 6, 4)]
        >>> sum(parameter.numel() for parameter in model.parameters())
        8852366
    """

    def __init__(self, config: Config | Path | str, *, eps: float = EPS) -> None:
        super().__init__()
        self.config = config if isinstance(config, Config) else read_cfg(config)
        with torch.device("meta"):  # numbers in a text are checked before memory is asked for
            _require_sizes(self.config, _build(self.config, eps))
        built = _build(self.config, eps)
        self.layers = nn.ModuleList([layer.module for layer in built])
        self.heads: tuple[Head, ...] = tuple(layer.head for layer in built if layer.head is not None)
        self.header = Header()
        self.stride = max((int(layer.shape.stride) for layer in built), default=1)
        self._sources = tuple(layer.sources for layer in built)
        self._frees = _frees(self._sources, {head.index for head in self.heads})

    @property
    def sources(self) -> tuple[tuple[int, ...], ...]:
        """For each layer the layers that it reads; -1 is the input."""
        return self._sources

    def image_size(self, side: int | None = None) -> tuple[int, int]:
        """Rows and columns of its images.

        Args:
            side: Of square images, in pixels; None takes the cfg's height and width.

        Raises:
            RequestError: The network cannot divide them.
        """
        rows = columns = side
        if rows is None or columns is None:
            net = input_place(self.config)
            rows, columns = (net.integer(key, 416, least=1) for key in ("height", "width"))
        if min(rows, columns) < 1 or rows % self.stride or columns % self.stride:
            what = f"image_size is {rows}" + (f" x {columns}" if side is None else "")
            do = f"pass a multiple of {self.stride}"
            raise RequestError(f"{what}, {self.config.name} divides images by {self.stride}", do=do)
        return rows, columns

    def black(self, size: tuple[int, int], batch: int = 1) -> Tensor:
        """Images without a thing in them, of rows and columns, where and in what its weights are."""
        channels = input_place(self.config).integer("channels", 3, least=1)
        return next(self.parameters()).new_zeros(batch, channels, *size).detach()

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> tuple[Tensor, ...]:
        """Compute the raw maps.

        Args:
            images: Colours from 0 to 1; height and width are multiples of `stride`.

        Returns:
            For each head (batch, anchors * (5 + classes), height / stride, width / stride), without sigmoid.
        """
        if images.shape[2] % self.stride or images.shape[3] % self.stride:
            raise RequestError(
                f"images of {images.shape[2]} x {images.shape[3]} pixels",
                [f"{self.config.name} divides them by {self.stride}"],
                f"resize or letterbox them to multiples of {self.stride}",
            )
        outputs: dict[int, Tensor] = {IMAGE: images}
        for index, layer in enumerate(self.layers):
            outputs[index] = layer(*(outputs[source] for source in self._sources[index]))
            for read in self._frees[index]:
                del outputs[read]
        return tuple(outputs[head.index] for head in self.heads)


def _frees(sources: tuple[tuple[int, ...], ...], kept: set[int]) -> tuple[tuple[int, ...], ...]:
    """For each layer the outputs that nobody reads after it, so that memory holds only what is needed."""
    last = {source: index for index, read in enumerate(sources) for source in read if source not in kept}
    return tuple(tuple(read for read, user in last.items() if user == index) for index in range(len(sources)))


def _require_sizes(config: Config, layers: list[Layer]) -> None:
    params = sum(parameter.numel() for layer in layers for parameter in layer.module.parameters())
    if params > MOST_PARAMETERS:
        what = f"{config.name} makes a network of {params:,} parameters"
        raise RequestError(what, [f"allowed: {MOST_PARAMETERS:,}"], "write fewer filters, or smaller sizes")


def _build(config: Config, eps: float) -> list[Layer]:
    if len(config.sections) > _MOST_SECTIONS:
        what = f"{config.name} has {len(config.sections):,} sections"
        raise RequestError(what, [f"allowed: {_MOST_SECTIONS:,}"], "is it a cfg?")
    net = input_place(config)
    height, width = (net.integer(key, 416, least=1) for key in ("height", "width"))
    image = Shape(net.integer("channels", 3, least=1), height, width)
    layers: list[Layer] = []
    for index, section in enumerate(config.sections):
        shapes = (*(layer.shape for layer in layers), image)
        if section.name not in kinds:
            do = "remove it: networks are built of these"
            context = (f"known: {', '.join(kinds)}",)
            raise config.error(f"unknown section [{section.name}]", index, context=context, do=do)
        layers.append(kinds[section.name](SectionPlace(config, index, shapes, eps)))
    if not any(layer.head for layer in layers):
        raise RequestError(f"{config.name} has no [yolo] section", do="add one: its map is the output")
    return layers
