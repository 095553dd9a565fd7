"""Value heads: what is left of the values of a head is what the layer behind them makes most of."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.capture.replay import Replay
from secateur.coupling.layers import LayerCall
from secateur.coupling.logits import LogitsCall, logits_call
from secateur.errors import CaptureError
from secateur.graph.axes import Expr, Product, leaves, resolve
from secateur.recovery.channel_blocks import ChannelBlocks, blocks_of
from secateur.recovery.head_layers import HeadLayers, judging, parted, percent
from secateur.recovery.head_paths import HeadMap, HeadPath, Held, explore, maker_layers
from secateur.recovery.layers import has_lost
from secateur.recovery.lockstep import Pair
from secateur.recovery.step import Recovery, Subject

_RANK = 1e-10
"""Directions with a smaller share of the largest variance are taken for none."""
_FEWEST = 1e-6


@dataclass(frozen=True, eq=False)
class ValueJob:
    """Values whose width lost positions.

    Attributes:
        subject: The models.
        layers: The layers of the cut model.
        dense: Those of the dense one.
        layer: Makes the values.
        behind: Reads what the attention makes of them.
        blocks: The value heads among the first layer's outputs.
        read: The heads among the second one's inputs.
    """

    subject: Subject
    layers: HeadLayers
    dense: HeadLayers
    layer: LayerCall
    behind: LayerCall
    blocks: ChannelBlocks
    read: ChannelBlocks

    def run(self, pairs: Sequence[Pair]) -> Recovery:
        """Replace the value heads; all batches stand at the layer."""
        reason = self.obstacle()
        path = HeadPath(self.subject.groups.graph, self.layer, self.behind.input, (), self.behind.node.index)
        found = reason or explore(path, self.blocks, pairs[0].cut, self._split, None)
        if isinstance(found, str):
            return self._left_alone(found)
        there = self._moments(path, pairs)
        if there is None:
            return self._left_alone("pass four samples or more: one judges what is learned")
        before, size = self._missing(path, pairs)
        tensors = [
            held(layer)
            for layer in (self.layer, self.behind)
            for held in (self.layers.weight, self.layers.bias)
        ]
        saved = [(one, one.clone()) for one in tensors if one is not None]
        self._write(found, there)
        self._level(path, pairs)
        after, _ = self._missing(path, pairs)
        was, now = percent(before, size), percent(after, size)
        if not after < before:
            for tensor, old in saved:
                tensor.copy_(old)
            why = f"other values bring the output of {self.behind.name} no nearer, {was} -> {now}"
            return self._left_alone(why)
        told = f"error of the output of {self.behind.name} {was} -> {now}, on what was not learned from"
        is_exact = after < _FEWEST**2 * size
        return Recovery("attention", self.layer.name, "exact" if is_exact else "approximate", told)

    def obstacle(self) -> str:
        """Why the layers cannot be changed; empty if they can."""
        reason = self.layers.obstacle(self.layer)
        if reason:
            return reason
        if has_lost(self.subject, self.layer):
            return "its input lost positions, too"
        behind = self.layers.obstacle(self.behind)
        if behind:
            return f"{self.behind.name}, which reads it: {behind}"
        held = self.layers.weight(self.behind).shape[1]
        return "" if self.read.cut.numel() == held else f"{self.behind.name} reads more than its heads"

    def _left_alone(self, reason: str) -> Recovery:
        return Recovery("attention", self.layer.name, "left alone", reason)

    def _split(self, replay: Replay, held: Held) -> Tensor:
        return _heads(held[self.behind.input], self.read.cut)

    def _moments(self, path: HeadPath, pairs: Sequence[Pair]) -> Tensor | None:
        """The second moments of what the dense model's heads put out: [heads, width, width]."""
        total: Tensor | None = None
        for pair, judges in zip(pairs, judging(pairs), strict=True):
            if judges:
                continue
            assert pair.dense is not None, "asked for"
            rows = _heads(path.run(pair.dense)[self.behind.input], self.read.dense).double()
            at = parted(rows.shape[1]) if judges is None else rows.shape[1]
            if at is None:
                return None
            if not bool(rows.isfinite().all()):
                raise CaptureError(
                    f"what {self.behind.name} reads is NaN or infinite on batch {pair.number} of the data",
                    [str(self.behind.node)],
                    "leave out what is not finite in the data, or find the layer that overflows",
                )
            made = rows[:, :at].mT @ rows[:, :at]
            total = made if total is None else total + made
        return total

    def _outputs(
        self, path: HeadPath, pair: Pair, judges: bool | None, *, learn: bool
    ) -> tuple[Tensor, Tensor]:
        """What the layer behind puts out and should, [positions, outputs]: to learn from, or to judge by."""
        assert pair.dense is not None, "asked for"
        dim = self.subject.groups.findings.dims[self.behind.output][-1]
        stays = torch.from_numpy(self.subject.kept.positions(dim))
        now, wanted = (
            one.results_of(self.behind.node.index, path.run(one))[0].double().flatten(0, -2)
            for one in (pair.cut, pair.dense)
        )
        wanted = wanted[:, stays.to(wanted.device)]
        at = len(now) if judges is False else parted(len(now)) if judges is None else 0
        return (now[:at], wanted[:at]) if learn else (now[at:], wanted[at:])

    def _missing(self, path: HeadPath, pairs: Sequence[Pair]) -> tuple[float, float]:
        """The squares that the output of the layer behind misses where it is judged, and those there are."""
        missing = size = 0.0
        for pair, judges in zip(pairs, judging(pairs), strict=True):
            if judges is not False:
                now, wanted = self._outputs(path, pair, judges, learn=False)
                missing += float((now - wanted).square().sum())
                size += float(wanted.square().sum())
        return missing, size

    def _level(self, path: HeadPath, pairs: Sequence[Pair]) -> None:
        """Let the bias of the layer behind make up for what is missing on the mean; steps before may have."""
        bias = self.layers.bias(self.behind)
        if bias is None:
            return
        total, count = torch.zeros_like(bias, dtype=torch.float64), 0
        for pair, judges in zip(pairs, judging(pairs), strict=True):
            if not judges:
                now, wanted = self._outputs(path, pair, judges, learn=True)
                total += (wanted - now).sum(0).to(total)
                count += len(now)
        bias += (total / count).to(bias)

    def _write(self, found: HeadMap, moments: Tensor) -> None:
        """Put the truncated decomposition in place."""
        dim = self.subject.groups.findings.dims[self.behind.output][-1]
        stays = torch.from_numpy(self.subject.kept.positions(dim))
        readers, written = self.dense.weight(self.behind), self.layers.weight(self.behind)
        device = readers.device
        for number, block in enumerate(found.blocks.tolist()):
            heads = (found.rows == number).nonzero()[:, 0].tolist()
            outer = [
                readers[stays.to(device)][:, self.read.dense[head].to(device)].to(moments) for head in heads
            ]
            into, back = best_values(moments[heads].sum(0), torch.cat(outer), self.blocks.width)
            self.layers.replace_rows(
                self.layer, self.blocks.cut[block], into, self.dense, self.blocks.dense[block]
            )
            for head, weight in zip(heads, outer, strict=True):
                written[:, self.read.cut[head].to(written.device)] = (weight @ back).to(written)


def best_values(moments: Tensor, outer: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The best few numbers in place of the values of a head.

    Args:
        moments: C, the second moments of what they are mixed to, [width, width].
        outer: The weights that read them, one head's above the other's, [outputs, width].
        count: How many numbers.

    Returns:
        What makes them of the values, [count, width], and what the weights are multiplied with,
        [width, count].

    Example:
        >>> outer = torch.tensor([[1.0, 1.0, 0.0], [2.0, 2.0, 0.0]]).double()
        >>> into, back = best_values(torch.eye(3).double(), outer, 1)
        >>> torch.allclose(outer @ back @ into, outer)
        True
    """
    size, along = torch.linalg.eigh(moments)
    size = torch.where(size > _RANK * size[-1].clamp_min(1e-300), size, torch.zeros_like(size)).sqrt()
    half = along * size @ along.T
    under = torch.where(size > 0, 1 / size.clamp_min(1e-150), torch.zeros_like(size))
    less = along * under @ along.T
    kernel = torch.linalg.eigh(half @ (outer.T @ outer) @ half).eigenvectors.flip(1)[:, :count]
    scale = (size.square().mean()).sqrt().clamp_min(1e-150)  # the numbers are as large as the values were
    return scale * kernel.T @ less, half @ kernel / scale


def _heads(tensor: Tensor, at: Tensor) -> Tensor:
    """Some channels head by head: [heads, rows, width]."""
    picked = tensor[..., at.flatten().to(tensor.device)].reshape(-1, *at.shape)
    return picked.transpose(0, 1)


def value_jobs(
    subject: Subject, held: HeadLayers, dense: HeadLayers, layers: dict[int, LayerCall]
) -> tuple[list[ValueJob], list[Recovery]]:
    """The layers whose values lost positions, and what is left alone with the reason.

    Args:
        subject: The models.
        held: The layers of the cut model.
        dense: Those of the dense one.
        layers: All layers by their calls.
    """
    graph, dims = subject.groups.graph, subject.groups.findings.dims
    products = {node.index: made for node in graph.nodes if (made := logits_call(graph, node)) is not None}
    jobs: list[ValueJob] = []
    notes: list[Recovery] = []
    for behind in layers.values():
        dim = resolve(dims[behind.input][-1])
        inner = dim.factors[-1] if isinstance(dim, Product) else dim
        if behind.spatial or not subject.kept.cuts(inner) or not has_lost(subject, behind):
            continue
        but = _compared(behind, inner, products, layers, subject)
        if not but:
            continue  # no attention
        read = blocks_of(dim, inner, subject.kept)
        found = [
            (layer, blocks)
            for layer in maker_layers(graph, behind.input, layers, but)
            if (blocks := blocks_of(dims[layer.output][layer.channels_at], inner, subject.kept)) is not None
        ]
        if len(found) == 1 and read is not None:
            jobs.append(ValueJob(subject, held, dense, found[0][0], behind, found[0][1], read))
        else:
            why = "no layer" if not found else f"{len(found)} layers"
            notes.append(Recovery("attention", behind.name, "left alone", f"its values come from {why}"))
    return jobs, notes


def _compared(
    behind: LayerCall,
    width: Expr,
    products: dict[int, LogitsCall],
    layers: dict[int, LayerCall],
    subject: Subject,
) -> frozenset[int]:
    """The queries and keys of the attentions between a layer and those before it; none where there is none.

    A product that hands the width on mixes values.
    """
    graph, dims = subject.groups.graph, subject.groups.findings.dims
    held = set(leaves(width))
    found: set[int] = set()
    seen: set[int] = set()
    fresh = [behind.input]
    while fresh:
        node = graph.maker.get(fresh.pop())
        if node is None or node.index in seen or node.index in layers:
            continue
        seen.add(node.index)
        made = {leaf for value in node.makes for dim in dims[value] for leaf in leaves(dim)}
        if node.index in products and (products[node.index].is_fused or held.isdisjoint(made)):
            found |= {products[node.index].query, products[node.index].key}
        fresh.extend(node.reads)
    return frozenset(found)
