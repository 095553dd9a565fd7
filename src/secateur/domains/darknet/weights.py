"""Darknet's `.weights`: a header, then float32 numbers, layer by layer.

    with batch normalisation   bias, scale, mean, variance (filters each), kernel (filters, in / groups, h, w)
    without                    bias (filters), kernel

A file named `*.conv.NN` ends before layer NN: the trained beginning of a network whose end is new.

Source: `load_convolutional_weights` and `save_convolutional_weights` of Darknet's `src/parser.c`.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from secateur.domains.darknet.header import Header
from secateur.domains.darknet.network import Darknet
from secateur.domains.darknet.sections.convolutional import Convolutional
from secateur.errors import CheckpointError
from secateur.write.atomic import atomic_write

__all__ = ["load_darknet", "load_weights", "read_header", "save_weights"]

_FLOAT = np.dtype("<f4")
_PARTIAL = re.compile(r"\.conv\.(\d+)$")


def read_header(path: Path | str) -> Header:
    """Read the header of a weights file.

    Args:
        path: The file.

    Returns:
        Its header.

    Raises:
        CheckpointError: There is no such file, or it is too short for a header.
    """
    try:
        with Path(path).open("rb") as file:
            return Header.read(file.read(20), Path(path).name)
    except OSError as error:
        do = "check the name"
        raise CheckpointError(f"cannot read the weights {path}: {error.strerror}", do=do) from error


def load_weights(model: Darknet, path: Path | str, *, cutoff: int | None = None) -> Header:
    """Fill a network, in place, with the numbers of a file.

    The file is checked whole before the first number is copied.

    Args:
        model: The network; its dtype and device stay. Its `header` becomes the file's.
        path: The file.
        cutoff: Fill only the layers before this one; the file may go on behind them. None fills all, or of a
            file named `*.conv.NN` the layers before NN, and the file must end there.

    Returns:
        The file's header.

    Raises:
        CheckpointError: The file is missing, or too short or too long for the network: by how many floats,
            and at which layer it ends.

    Example:
        >>> import tempfile
        >>> model = Darknet("digits")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = save_weights(model, Path(folder, "digits.conv.8"))
        ...     load_weights(Darknet("digits"), file)
        Header(major=0, minor=2, revision=0, seen=0)
    """
    path = Path(path)
    header = read_header(path)
    named = _PARTIAL.search(path.name)
    end = cutoff if cutoff is not None else int(named[1]) if named else None
    tensors = list(_in_file_order(model, end))
    _require_size(path, header, tensors, longer_allowed=cutoff is not None)
    wanted = sum(tensor.numel() for _, _, tensor in tensors)
    values = np.memmap(path, _FLOAT, "r", header.size, (wanted,)) if wanted else np.empty(0, _FLOAT)
    at = 0
    with torch.no_grad():
        for _, _, tensor in tensors:
            part = np.array(values[at : at + tensor.numel()], np.float32)
            tensor.copy_(torch.from_numpy(part).view(tensor.shape))
            at += tensor.numel()
    model.header = header
    return header


def save_weights(
    model: Darknet, path: Path | str, *, header: Header | None = None, cutoff: int | None = None
) -> Path:
    """Write a network's numbers as float32; the file is complete or not there.

    Args:
        model: The network.
        path: The file. A name `*.conv.NN` writes the layers before NN.
        header: What to write before the numbers; None takes the model's own.
        cutoff: Write only the layers before this one.

    Returns:
        The path.

    Raises:
        SecateurError: The file cannot be written.
    """
    path = Path(path)
    named = _PARTIAL.search(path.name)
    end = cutoff if cutoff is not None else int(named[1]) if named else None
    opening = (header or model.header).packed()
    tensors = [tensor for _, _, tensor in _in_file_order(model, end)]

    def fill(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(opening)
            for tensor in tensors:
                tensor.detach().to("cpu", torch.float32).contiguous().numpy().astype(_FLOAT).tofile(file)

    atomic_write(path, fill)
    return path


def load_darknet(config: Path | str, weights: Path | str | None = None) -> Darknet:
    """Build the network of a cfg and fill it.

    Args:
        config: The cfg's file or bundled name.
        weights: The weights' file; None leaves PyTorch's initial values.

    Returns:
        The network, in eval mode as it is most often wanted with trained weights.
    """
    model = Darknet(config)
    if weights is not None:
        load_weights(model, weights)
    return model.eval()


def _in_file_order(model: Darknet, end: int | None) -> Iterator[tuple[int, str, Tensor]]:
    """Layer, what it is, and the tensor, for the layers before `end`."""
    for index, layer in enumerate(model.layers[:end]):
        if not isinstance(layer, Convolutional):
            continue
        norm = layer.norm
        if norm is not None:
            assert norm.running_mean is not None, "Darknet's normalisation tracks its statistics"
            assert norm.running_var is not None, "Darknet's normalisation tracks its statistics"
            yield index, "bias", norm.bias
            yield index, "scale", norm.weight
            yield index, "mean", norm.running_mean
            yield index, "variance", norm.running_var
        else:
            assert layer.conv.bias is not None, "a convolution without normalisation has a bias"
            yield index, "bias", layer.conv.bias
        yield index, "kernel", layer.conv.weight


def _require_size(
    path: Path, header: Header, tensors: list[tuple[int, str, Tensor]], *, longer_allowed: bool
) -> None:
    bytes_held = path.stat().st_size - header.size
    held, rest = divmod(bytes_held, _FLOAT.itemsize)
    wanted = sum(tensor.numel() for _, _, tensor in tensors)
    if held == wanted and not rest:
        return
    version = f"header: version {header.major}.{header.minor}.{header.revision}, {header.seen:,} images seen"
    if held >= wanted:
        if longer_allowed:
            return
        last = tensors[-1][0] if tensors else 0
        what = f"{path.name} holds {held:,} floats, the network takes {wanted:,}: {held - wanted:,} too many"
        if rest:
            what += f", and {rest} bytes"
        context = [f"the file goes on behind layer {last}, the last that has weights", version]
        raise CheckpointError(what, context, "use the cfg that the weights were trained with")
    at, place = 0, ""
    for index, name, tensor in tensors:
        if at + tensor.numel() > held:
            part = f"{held - at:,} of the {tensor.numel():,} floats of its {name}"
            place = f"it ends in layer {index}, after {part}"
            break
        at += tensor.numel()
    what = f"{path.name} holds {held:,} floats, the network takes {wanted:,}: {wanted - held:,} too few"
    do = "use the cfg that the weights were trained with, or name the layer before which they end as cutoff"
    raise CheckpointError(what, [place, version], do)
