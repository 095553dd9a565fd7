"""Run a rule's sample, record it, and run the record again on sliced tensors."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.ops
from torch import Tensor, nn

from secateur.capture import output_tensors
from secateur.capture.recorder import Recorder
from secateur.capture.switches import recording_context
from secateur.coupling.call import Findings
from secateur.coupling.solve import solve
from secateur.graph.axes import Axis, leaves
from secateur.graph.keep import count, keep_mask
from secateur.graph.node import Graph, Ref


class Sample(nn.Module):
    """An expression as a network: each `T(...)` is a parameter, so that its dims are free.

    A capital `T` is drawn from a normal distribution, in double precision.
    """

    def __init__(self, text, seed=0):
        super().__init__()
        self.text = text
        self.tensors = nn.ParameterList()
        generator = torch.Generator().manual_seed(seed)

        def make(*sizes):
            value = torch.randn(*sizes, generator=generator, dtype=torch.float64)
            self.tensors.append(nn.Parameter(value))
            return self.tensors[-1]

        with torch.inference_mode(False), torch.no_grad():
            evaluate(text, make)

    def forward(self, unused):
        tensors = iter(self.tensors)
        return evaluate(self.text, lambda *_: next(tensors))


def evaluate(text, make):
    return eval(text, {"torch": torch, "F": F, "torchvision": torchvision, "T": make})


class _Keeper(Recorder):
    """Remembers the tensor behind each value."""

    def __init__(self, model):
        self.seen = {}
        super().__init__(model)

    def _add(self, tensor, kind):
        index = super()._add(tensor, kind)
        self.seen[index] = tensor
        return index


@dataclass
class Recording:
    """A record, what the rules found in it, its unprotected axes, and the values that no node makes."""

    model: nn.Module
    graph: Graph
    findings: Findings
    free: list[Axis]
    start: dict[int, Tensor]

    @classmethod
    def of(cls, text, seed=0):
        torch.manual_seed(seed)
        return cls.of_model(Sample(text, seed))

    @classmethod
    def of_model(cls, model):
        recorder = _Keeper(model)
        with recording_context(), recorder:
            graph = recorder.finish(output_tensors(model(None)), "real")
        findings = solve(graph)
        every = (leaf for dims in findings.dims.values() for dim in dims for leaf in leaves(dim))
        free = [leaf for leaf in dict.fromkeys(every) if leaf.reason is None and leaf.size > 1]
        start = {
            index: tensor.detach()
            for index, tensor in recorder.seen.items()
            if graph.values[index].kind != "node"
        }
        return cls(model, graph, findings, free, start)

    def masks(self, index, keep):
        return [keep_mask(dim, keep) for dim in self.findings.dims[index]]

    def run(self, keep, *, sliced):
        """Replay on kept positions only, or on whole tensors whose removed positions are zero."""
        torch.manual_seed(0)
        kept = {leaf: int(mask.sum()) for leaf, mask in keep.items()}
        values = {}
        for index, tensor in self.start.items():
            masks = self.masks(index, keep)
            values[index] = take(tensor, masks) if sliced else mask_out(tensor.clone(), masks)
        for node in self.graph.nodes:
            args = {
                name: self._argument((name,), value, node, values, kept if sliced else {})
                for name, value in node.args.items()
            }
            output = operator(node)(**args)
            for ref, tensor in zip(node.outputs, flat(output), strict=True):
                if ref is not None:
                    masks = self.masks(ref.value, keep)
                    values[ref.value] = tensor if sliced else mask_out(own(tensor), masks)
        return [values[index] for index in self.graph.outputs]

    def _argument(self, path, value, node, values, kept):
        if isinstance(value, Ref):
            return values[value.value]
        if isinstance(value, tuple):
            return [self._argument((*path, at), item, node, values, kept) for at, item in enumerate(value)]
        expr = self.findings.literals.get((node.index, path))
        if expr is not None and count(expr, kept) != expr.size:
            return count(expr, kept)
        known = getattr(torch, value, None) if isinstance(value, str) else None
        return known if isinstance(known, (torch.dtype, torch.layout, torch.memory_format)) else value

    def sliced_outputs(self, outputs, keep):
        return [
            take(tensor, self.masks(index, keep))
            for tensor, index in zip(outputs, self.graph.outputs, strict=True)
        ]

    def is_balanced(self, keep):
        kept = {leaf: int(mask.sum()) for leaf, mask in keep.items()}
        return all(len({count(dim, kept) for dim in dims}) == 1 for dims, _ in self.findings.balanced)

    def choices(self, rng, times):
        """Masks for the free axes that keep at least one position of each and honour the balances."""
        tied = {leaf for dims, _ in self.findings.balanced for dim in dims for leaf in leaves(dim)}
        for one in self.free:
            others = [leaf for leaf in tied if leaf is not one and leaf.size == one.size and one in tied]
            for left in range(fewest(one), one.size):
                yield {
                    leaf: draw_mask(rng, leaf.size, left) for leaf in [one, *others] if leaf.reason is None
                }
        for _ in range(times):
            left = {size: int(rng.integers(1, size)) for size in {leaf.size for leaf in self.free}}
            yield {
                leaf: draw_mask(
                    rng,
                    leaf.size,
                    left[leaf.size] if leaf in tied else int(rng.integers(fewest(leaf), leaf.size)),
                )
                for leaf in self.free
                if fewest(leaf) < leaf.size
            }


def fewest(leaf):
    """A statistic needs two positions."""
    return 2 if leaf.renormalised else 1


def draw_mask(rng, size, left):
    mask = np.zeros(size, dtype=bool)
    mask[rng.permutation(size)[:left]] = True
    return mask


def operator(node):
    namespace, name = node.op.split(".", 1)
    return getattr(getattr(getattr(torch.ops, namespace), name), node.overload or "default")


def flat(output):
    outputs = output if isinstance(output, (tuple, list)) else (output,)
    return [part for item in outputs for part in (item if isinstance(item, (tuple, list)) else (item,))]


def take(tensor, masks):
    for dim, mask in enumerate(masks):
        tensor = tensor.index_select(dim, torch.from_numpy(mask.nonzero()[0]))
    return tensor


def own(tensor):
    """A view keeps its memory, as a write into it is one into its base; one that repeats positions cannot."""
    repeats = any(stride == 0 < size - 1 for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.clone() if repeats else tensor


def mask_out(tensor: Tensor, masks):
    for dim, mask in enumerate(masks):
        if not mask.all():
            tensor.index_fill_(dim, torch.from_numpy((~mask).nonzero()[0]), 0)
    return tensor
