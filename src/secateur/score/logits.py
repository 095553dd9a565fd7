"""Logits as consumers: what the width of queries and keys is worth.

Without the coordinates S of a head the logits of queries i and keys j change by

    sum over d in S of  q_id k_jd,      so      H = (Q'Q) * (K'K)      (entrywise), weights all one

are the second moments of what they are summed from, over all pairs (i, j) of a sample: `score/elimination.py`
serves them as it serves a layer. Each head is a consumer of its own, as each can be mended by itself
(recovery step "attention"); one key that several query heads share has as many.

What the square of a change of a logit counts is estimated from the gradient by the queries, which autograd
tells, fused or not: g_q = sum over j of g_ij k_j, and where the g_ij are taken for unrelated,

    sum over j of g_ij^2  =  |g_q|^2 / mean over j of |k_j|^2
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateur.capture.batches import Samples, naming_batch
from secateur.capture.follower import Step, observe
from secateur.coupling import Group, Groups
from secateur.coupling.logits import LogitsCall, logits_calls, width_of
from secateur.errors import CaptureError
from secateur.graph.axes import axes_in, resolve
from secateur.graph.keep import DimPlaces
from secateur.score.elimination import Consumer, InputMoments, shrinkage, shrunk
from secateur.score.sensitivity import Watched


@dataclass(frozen=True, eq=False)
class LogitsReader:
    """A product of queries with keys that sums over a group.

    Attributes:
        call: The product.
        units: The positions of each channel in its width.
    """

    call: LogitsCall
    units: Tensor

    @property
    def at(self) -> int:
        """The call's place in the record."""
        return self.call.node.index


@dataclass(eq=False)
class LogitsMoments:
    """Sums over the samples of one call.

    Attributes:
        second: H of each head.
        square: The squares of what each sample gives.
        keys: The squares of all keys of each head, their mean over the samples.
        samples: How many there are.
        width: Of a head.
    """

    second: Float[Tensor, "heads width width"]
    square: Float[Tensor, "heads width width"]
    keys: Float[Tensor, " heads"]
    samples: int = 0

    def add(self, query: Tensor, key: Tensor) -> None:
        """Add the samples of a batch: [samples, heads, positions, width]."""
        made = (query.transpose(-1, -2) @ query) * (key.transpose(-1, -2) @ key)
        self.second += made.sum(0)
        self.square += made.square().sum(0)
        self.keys += key.square().sum((0, 2, 3))
        self.samples += len(query)

    def moments(self, head: int) -> InputMoments:
        """H of one head, shrunk by what its samples do not agree on."""
        mean, square = self.second[head] / self.samples, self.square[head] / self.samples
        return InputMoments(shrunk(self.second[head], shrinkage(mean, square, self.samples)))

    def counts(self, gradients: Float[Tensor, " outputs"]) -> Float[Tensor, " heads"]:
        """What the square of a change of each head's logits counts.

        Args:
            gradients: The mean square by each coordinate of the queries, head by head.
        """
        each = gradients.to(self.keys).view(len(self.keys), -1).sum(1)
        size = self.keys / self.samples
        return torch.where(size > 0, each / size.clamp_min(torch.finfo(size.dtype).tiny), 0.0)


def logits_readers(groups: Groups, wanted: Sequence[Group]) -> dict[str, list[LogitsReader]]:
    """The products of queries with keys that sum over each group."""
    found: dict[str, list[LogitsReader]] = {group.name: [] for group in wanted}
    calls = logits_calls(groups)
    for call in calls:
        dim = resolve(width_of(groups, call))
        places, held = DimPlaces(dim), set(axes_in(dim))
        for group in wanted:
            if group.axis in held:
                found[group.name].append(LogitsReader(call, torch.from_numpy(places.of(group.axis))))
    return found


def watched_queries(groups: Groups, readers: Sequence[LogitsReader]) -> dict[int, Watched]:
    """Where the queries are made, by call; nothing of a call that makes several tensors."""
    found: dict[int, Watched] = {}
    for reader in readers:
        maker = groups.graph.maker.get(reader.call.query)
        if maker is not None and len(maker.outputs) == 1:
            rank = len(groups.graph.values[reader.call.query].shape)
            found[maker.index] = Watched(reader.call.query, (*range(1, rank - 2), rank - 1))
    return found


def gather_logits(
    model: nn.Module, groups: Groups, calls: Sequence[LogitsCall], data: Samples
) -> Mapping[int, LogitsMoments]:
    """Sum over all data, by call.

    Raises:
        CaptureError: The model does not run on a batch, or compares NaN or infinity.
        PathError: It takes another path than in its record.
    """
    found: dict[int, LogitsMoments] = {}
    by_node = {call.node.index: call for call in calls}
    for sample in data:

        def on_step(seen: None, step: Step, number: int = sample.number) -> Any:
            call = by_node.get(step.node.index)
            if call is not None:
                query, key = (_by_head(one) for one in call.operands(step.named()))
                _require_finite(call, (query, key), number)
                if step.node.index not in found:
                    found[step.node.index] = _empty(query)
                found[step.node.index].add(query, key)
            return step.run()

        with naming_batch(sample.number):
            observe(model, sample.inputs, groups.graph, lambda *_: None, on_step)
    return found


def logits_consumers(
    reader: LogitsReader, sums: LogitsMoments, gradients: Float[Tensor, " outputs"] | None
) -> list[Consumer]:
    """The consumers of one product: one for each head.

    Args:
        reader: It.
        sums: Its sums over the data.
        gradients: The mean square of the gradient by each coordinate of the queries; None: all logits of a
            head are 1.
    """
    heads, width = sums.second.shape[:2]
    ones = sums.second.new_ones(width, 1)
    counts = None if gradients is None else sums.counts(gradients)
    units = reader.units.to(ones.device)
    return [
        Consumer(sums.moments(head), ones, units, None if counts is None else counts[head : head + 1])
        for head in range(heads)
    ]


def _by_head(operand: Tensor) -> Tensor:
    """As [samples, heads, positions, width]: the first dim counts the samples, unless there are two."""
    if operand.dim() == 2:
        return operand[None, None]
    return operand[:, None] if operand.dim() == 3 else operand.flatten(1, -3)


def _empty(query: Tensor) -> LogitsMoments:
    second = query.new_zeros(query.shape[1], query.shape[-1], query.shape[-1])
    return LogitsMoments(second, torch.zeros_like(second), query.new_zeros(query.shape[1]))


def _require_finite(call: LogitsCall, operands: tuple[Tensor, Tensor], number: int) -> None:
    if not all(bool(torch.isfinite(one).all()) for one in operands):
        raise CaptureError(
            f"queries or keys are NaN or infinite on batch {number} of the data",
            [str(call.node)],
            "leave out what is not finite in the data, or find the layer that overflows",
        )
