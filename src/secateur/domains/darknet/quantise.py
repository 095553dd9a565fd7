"""INT8 after pruning: static quantisation through ONNX Runtime, and what it brings and costs.

    network -> ONNX (batch norm folded into the convolutions) -> ranges of every activation on calibration
    images -> QuantizeLinear / DequantizeLinear around every operator

    x ~ scale * (q - zero)      q in 0..255 for activations, in -127..127 a channel for weights

Static means that the ranges are fixed beforehand, from images that are like those to come. Weights get a
scale for each output channel, activations one for each tensor. The last convolution before each yolo layer
stays in float32 unless asked otherwise: it is little work, and box sizes go through an exponential.

Training at 1 to 4 bits (DoReFa-Net) is left out: no runtime at hand executes such weights, and emulated in
float32 they save neither time nor memory. Its quantiser is a function of the weight before each convolution,
so whoever wants it hangs it on the pruned network, for which no code of ours needs to change:
`torch.nn.utils.parametrize.register_parametrization(layer.conv, "weight", quantiser)`.
`remove_parametrizations` then leaves the quantised weights, which the files hold.

References:
    Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", CVPR 2018, section 2. https://arxiv.org/abs/1712.05877
    Zhou et al., "DoReFa-Net", 2016, equations 5 to 9. https://arxiv.org/abs/1606.06160
"""

import copy
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.costs import Latency, latency
from secateur.costs.stopwatch import quiet
from secateur.domains.darknet.network import Darknet
from secateur.errors import DataError, RequestError
from secateur.exports.writing import without_advice
from secateur.write.atomic import atomic_write

__all__ = ["METHODS", "OnnxMaps", "Quantised", "export_onnx", "quantise"]

METHODS = ("minmax", "percentile")
"""How the range of an activation is found: from its extremes, or so that 99.999 % of the values lie in it.

ONNX Runtime's third, entropy, counts in as many bins as it has levels when called this way, and so finds the
extremes again (1.31: the same scales to the last digit).
"""

_INPUT = "images"


@dataclass(frozen=True)
class Quantised:
    """A network in float32 and INT8, side by side.

    Attributes:
        fp32: The ONNX file in float32.
        int8: The ONNX file in INT8.
        size_bytes: Bytes of both files.
        latency: Time of one image in ONNX Runtime, one thread, in both.
        score: What `evaluate` said of the network in PyTorch and of the INT8 file; None without it.
        images: Calibration images that were looked at.
        in_float: Convolutions that stayed in float32, by layer number.
        difference: Largest difference of the INT8 maps over the largest value, on the last calibration batch.
    """

    fp32: Path
    int8: Path
    size_bytes: tuple[int, int]
    latency: tuple[Latency, Latency]
    score: tuple[Any, Any] | None
    images: int
    in_float: tuple[int, ...]
    difference: float

    @property
    def map50(self) -> tuple[float, float] | None:
        """mAP@0.5 (or whatever number `evaluate` gives) before and after."""
        if self.score is None:
            return None
        before, after = (float(getattr(said, "map50", said)) for said in self.score)
        return before, after

    def __str__(self) -> str:
        sizes, times = self.size_bytes, [one.median_ms for one in self.latency]
        lines = [
            f"INT8 by {self.images} calibration images, layers {list(self.in_float)} in float32",
            f"file: {sizes[0]:,} -> {sizes[1]:,} bytes ({sizes[0] / sizes[1]:.1f}x smaller)",
            f"one image, one thread, ONNX Runtime: {times[0]:.2f} -> {times[1]:.2f} ms",
            f"maps differ by {self.difference:.2g} of their largest value",
        ]
        if self.map50 is not None:
            lines.append(f"mAP@0.5: {self.map50[0]:.4f} -> {self.map50[1]:.4f}")
        return "\n".join(lines)


class OnnxMaps(nn.Module):
    """An ONNX file as a module: images in, the raw maps of the yolo layers out, as `Darknet` gives them.

    Args:
        path: The file.
        threads: Threads inside an operator.
    """

    def __init__(self, path: Path | str, threads: int = 1) -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the maps on the CPU."""
        feeds = {_INPUT: images.detach().cpu().float().numpy()}
        return tuple(torch.from_numpy(maps) for maps in self.session.run(None, feeds))

    def __deepcopy__(self, memo: Any) -> "OnnxMaps":
        """Itself: a session cannot be copied, and a run changes nothing of it."""
        return self


def export_onnx(model: Darknet, path: Path | str, *, image_size: int | None = None) -> Path:
    """Write a network as ONNX, with any batch size and one image size.

    Args:
        model: The network, cut or not; written in eval mode and float32.
        path: The file; it is complete or not there.
        image_size: Rows and columns; None takes the cfg's.

    Returns:
        The path.

    Raises:
        RequestError: The packages of the extra `onnx` are missing, or the size does not fit.
        SecateurError: The file cannot be written.
    """
    _require_packages()
    whole = copy.deepcopy(model).cpu().float().eval()
    images = whole.black(model.image_size(image_size), batch=2)
    names = [f"map{index}" for index in range(len(model.heads))]
    batch = torch.export.Dim("batch")

    def write(file: Path) -> None:
        torch.onnx.export(
            whole,
            (images,),
            str(file),
            input_names=[_INPUT],
            output_names=names,
            dynamic_shapes=({0: batch},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )

    with without_advice():
        atomic_write(path, write)
    return Path(path)


def quantise(
    model: Darknet,
    folder: Path | str,
    data: Iterable[Any],
    evaluate: Callable[[nn.Module], Any] | None = None,
    *,
    images: int = 128,
    method: str = "minmax",
    heads_in_float: bool = True,
    reduce_range: bool = False,
    image_size: int | None = None,
) -> Quantised:
    """Quantise a network to INT8 and measure what that brings and costs.

    Args:
        model: The network, cut or not; not changed.
        folder: Gets `<cfg name>.fp32.onnx` and `<cfg name>.int8.onnx`.
        data: Calibration images, such as a loader of training images without augmentation: tensors, tuples
            that begin with one, or batches with `images`. Labels are not read.
        evaluate: From a module that computes the maps to a score; it is called with the network and with the
            INT8 file: `lambda maps: evaluate(predictor(model, maps), loader)`.
        images: At most so many calibration images are read; a hundred do.
        method: "minmax" or "percentile".
        heads_in_float: Leave the convolution before each yolo layer in float32.
        reduce_range: 7 bits for weights: for x86 processors without VNNI, where sums of 8-bit products may
            overflow.
        image_size: Rows and columns; None takes the cfg's. The data must have this size.

    Returns:
        Both files with size, time and score; it prints well.

    Raises:
        RequestError: The packages of the extra `onnx` are missing, or an argument makes no sense.
        DataError: There is no calibration image, or it has another size.
    """
    _require_packages()
    if method not in METHODS or images < 1:
        what = f"method is {method} and images is {images}"
        raise RequestError(what, do=f"choose one of {', '.join(METHODS)} and at least one image")
    batches = list(_calibration(data, images, model.image_size(image_size)))
    stem = Path(model.config.name).stem
    fp32 = export_onnx(model, Path(folder) / f"{stem}.fp32.onnx", image_size=image_size)
    int8 = fp32.with_name(f"{stem}.int8.onnx")
    in_float = _head_convolutions(fp32) if heads_in_float else {}
    with without_advice():
        atomic_write(int8, lambda file: _quantise(fp32, file, batches, method, list(in_float), reduce_range))
    before, after = OnnxMaps(fp32), OnnxMaps(int8)
    score = None
    if evaluate is not None:
        with quiet(model, threads=None):
            score = evaluate(model), evaluate(after)
    one = torch.from_numpy(batches[-1][:1])
    return Quantised(
        fp32=fp32,
        int8=int8,
        size_bytes=(fp32.stat().st_size, int8.stat().st_size),
        latency=(latency(before, one), latency(after, one)),
        score=score,
        images=sum(map(len, batches)),
        in_float=tuple(sorted(head.index - 1 for head in model.heads)) if heads_in_float else (),
        difference=_difference(before, after, torch.from_numpy(batches[-1])),
    )


def _quantise(
    fp32: Path, int8: Path, batches: list[Any], method: str, excluded: list[str], reduce_range: bool
) -> None:
    from onnxruntime import quantization as ort
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(ort.CalibrationDataReader):
        """Hands the calibration images out once."""

        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.left, None)
            return None if batch is None else {_INPUT: batch}

    methods = {
        "minmax": ort.CalibrationMethod.MinMax,
        "percentile": ort.CalibrationMethod.Percentile,
    }
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder, "prepared.onnx")
        quant_pre_process(str(fp32), str(prepared), skip_symbolic_shape=True)
        ort.quantize_static(
            str(prepared),
            str(int8),
            Reader(),
            quant_format=ort.QuantFormat.QDQ,
            activation_type=ort.QuantType.QUInt8,
            weight_type=ort.QuantType.QInt8,
            per_channel=True,
            reduce_range=reduce_range,
            nodes_to_exclude=excluded,
            calibrate_method=methods[method],
        )


def _head_convolutions(path: Path) -> list[str]:
    """The nodes that make the outputs."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    outputs = {output.name for output in graph.output}
    return [node.name for node in graph.node if outputs.intersection(node.output)]


def _calibration(data: Iterable[Any], most: int, size: tuple[int, int]) -> Iterator[np.ndarray[Any, Any]]:
    """Batches of images in float32, at most so many images in all."""
    left = most
    for number, batch in enumerate(islice(data, most)):
        images: Any = getattr(batch, "images", batch[0] if isinstance(batch, list | tuple) else batch)
        if tuple(images.shape[2:]) != size:
            what = f"calibration batch {number} has images of {images.shape[2]} x {images.shape[3]}"
            raise DataError(
                what, [f"the ONNX file takes {size[0]} x {size[1]}"], "pass image_size, or resize"
            )
        yield images[:left].detach().cpu().float().numpy()
        left -= len(images)
        if left <= 0:
            return
    if left == most:
        raise DataError("the calibration data holds no image", do="pass images such as the network will see")


def _difference(before: nn.Module, after: nn.Module, images: Tensor) -> float:
    pairs = zip(before(images), after(images), strict=True)
    return max(float((one - two).abs().max() / one.abs().max()) for one, two in pairs)


def _require_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        do = "pip install 'secateur[onnx]'"
        raise RequestError(f"quantising needs ONNX: {error}", do=do) from error
