"""Targets: the widths that the kernels of a runtime are made for, as multiples by the role of a dim.

A convolution or linear layer reads the channels that its weight sums over and makes the others; a product of
two activations, such as those of an attention, has rows of a head's width. A dim that is a product, such as
heads times their width, is a multiple if what may be cut of it is a multiple of what the rest of it lacks:
of heads of 64 channels that a kernel wants in 128s, two are cut at once. An axis with several roles, such as
the units of a feed-forward layer, which one layer makes and the next one reads, takes the least common
multiple.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import lcm

from secateur.coupling import Group, Groups
from secateur.coupling.solve import multiples_of
from secateur.graph.axes import Expr
from secateur.graph.node import Node, Ref
from secateur.registry import Registry


@dataclass(frozen=True)
class Runtime:
    """What one runtime wants.

    Attributes:
        what: The runtime, and where the numbers come from.
        source: Where that is said.
        conv_out: Channels that a convolution makes come in multiples of this.
        conv_in: Channels that it reads, of each group of a grouped one.
        linear_out: Channels that a linear layer makes.
        linear_in: Channels that it reads.
        head_width: Channels of one head of an attention.
    """

    what: str
    source: str
    conv_out: int = 1
    conv_in: int = 1
    linear_out: int = 1
    linear_in: int = 1
    head_width: int = 1

    @classmethod
    def everywhere(cls, number: int, what: str, source: str) -> "Runtime":
        """A target that wants the same multiple of every dim."""
        return cls(what, source, *(number,) * 5)


targets: Registry[Runtime] = Registry("target")
"""By name; the table of `docs/targets.md` is made of it."""

_ONEDNN = "https://oneapi-src.github.io/oneDNN/dev_guide_understanding_memory_formats.html"
_TENSORRT = "https://docs.nvidia.com/deeplearning/tensorrt/latest/performance/optimization.html"

for _name, _target in {
    "trt-fp16": Runtime.everywhere(
        8,
        "TensorRT in FP16: Tensor Cores take 8 numbers at once, other sizes are padded",
        _TENSORRT,
    ),
    "int8": Runtime(
        "TensorRT in INT8: Tensor Cores take 16 at once; maps lie in blocks of 32 channels (`kCHW32`)",
        _TENSORRT,
        conv_out=32,
        conv_in=32,
        linear_out=16,
        linear_in=16,
        head_width=16,
    ),
    "openvino": Runtime.everywhere(
        16, "OpenVINO on x86: oneDNN's blocks of 16 channels (AVX-512), two of 8 (AVX2)", _ONEDNN
    ),
    "cpu": Runtime.everywhere(
        16, "PyTorch on x86: oneDNN's blocks of 16 channels (AVX-512), two of 8 (AVX2)", _ONEDNN
    ),
    "xnnpack": Runtime(
        "XNNPACK (ExecuTorch, TFLite): tiles of 8 outputs (`nr = 8`), 4 inputs a load",
        "https://github.com/google/XNNPACK/blob/master/src/configs/gemm-config.c",
        conv_out=8,
        conv_in=4,
        linear_out=8,
        linear_in=4,
        head_width=8,
    ),
    "ncnn": Runtime.everywhere(
        8,
        "ncnn: `elempack` 8 (half precision on Arm, INT8, AVX), twice that of float32 on Arm",
        "https://github.com/Tencent/ncnn/blob/master/docs/developer-guide/element-packing.md",
    ),
    "rknn": Runtime(
        "Rockchip NPUs: maps in blocks of 16 channels (INT8; 8 in FP16), products of 32 by 32 (RK3588)",
        "https://github.com/airockchip/rknn-toolkit2, rknn_matmul_api.h",
        conv_out=16,
        conv_in=16,
        linear_out=32,
        linear_in=32,
        head_width=32,
    ),
    "gguf-k": Runtime(
        "llama.cpp's K-quants: rows in super-blocks of 256 (`QK_K`); others fall back to larger types",
        "https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h",
        linear_in=256,
    ),
    "marlin": Runtime(
        "Marlin, 4-bit products of vLLM and SGLang: `GPTQ_MARLIN_MIN_THREAD_N = 64`, `_K = 128`",
        "https://github.com/vllm-project/vllm, quantization/utils/marlin_utils.py",
        linear_out=64,
        linear_in=128,
    ),
}.items():
    targets.add(_name, _target)


def aimed(groups: Groups, target: str | None) -> Groups:
    """The groups with the multiples that a target wants; one that has no smaller multiple stays whole.

    Args:
        groups: The groups of a model.
        target: A registered name; None leaves the groups as they are.

    Raises:
        RequestError: There is no such target.

    Example:
        >>> import torch, secateur as sc
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 24), torch.nn.Linear(24, 8), torch.nn.Linear(8, 2))
        >>> groups = aimed(sc.couple(model, torch.zeros(1, 4)), "trt-fp16")
        >>> groups["0"].multiple, groups["0"].reason
        (8, None)
        >>> groups["1"].reason
        'trt-fp16 wants multiples of 8, it has 8'
    """
    if target is None:
        return groups
    wanted = multiples_of(_demands(groups, targets[target]))

    def fitted(group: Group) -> Group:
        multiple = lcm(group.multiple, wanted.get(group.axis, 1))
        reason = group.reason
        if reason is None and group.multiple < multiple and multiple >= group.size:
            reason = f"{target} wants multiples of {multiple}, it has {group.size}"
        return replace(group, multiple=multiple, reason=reason)

    return replace(groups, all=tuple(map(fitted, groups.all)))


def _demands(groups: Groups, target: Runtime) -> Iterator[tuple[Expr, int]]:
    """Each dim of which the target wants a multiple."""
    contracted = groups.findings.contracted
    for index in groups.findings.macs:
        node = groups.graph.nodes[index]
        makes, reads = target.linear_out, target.linear_in
        if node.op.startswith("aten.conv"):
            makes, reads = target.conv_out, target.conv_in
        weights = [name for name, value in _operands(groups, node) if value not in groups.graph.from_inputs]
        for name, value in _operands(groups, node):
            dims = groups.findings.dims[value]
            for at, dim in enumerate(dims):
                is_read = (index, name, at) in contracted
                if name in weights:
                    yield dim, reads if is_read else makes
                elif not weights and (is_read or at == len(dims) - 1):
                    yield dim, target.head_width


def _operands(groups: Groups, node: Node) -> Iterator[tuple[str, int]]:
    """The operands of a product by argument, no vector among them: a bias has the dims of its weight."""
    for name, held in node.args.items():
        if isinstance(held, Ref) and len(groups.graph.values[held.value].shape) > 1:
            yield name, held.value
