"""Queries: a layer whose heads' queries are turned so that their products with the keys are as they were."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from secateur.capture.replay import Replay
from secateur.coupling.layers import LayerCall
from secateur.coupling.logits import LogitsCall, logits_call, logits_calls, width_of
from secateur.errors import CaptureError
from secateur.graph.axes import Axis, leaves
from secateur.recovery.channel_blocks import ChannelBlocks, blocks_of, turning
from secateur.recovery.head_layers import HeadLayers, judging, parted, percent
from secateur.recovery.head_paths import HeadMap, HeadPath, Held, explore, maker_layers
from secateur.recovery.lockstep import Pair
from secateur.recovery.logits_fit import LogitFit, LogitSums, fit_logits
from secateur.recovery.step import Recovery, Subject

_MOST = 2**31
"""Multiplications that one product of the moments of all rows may take; else fewer samples are used."""
_FEWEST = 1e-6
"""A smaller share of the logits that is missing is rounding."""


@dataclass(frozen=True, eq=False)
class QueryJob:
    """Queries whose width lost positions.

    Attributes:
        subject: The models.
        layers: The layers of the cut model.
        layer: Makes the queries.
        call: Their product with the keys.
        blocks: The heads among the layer's outputs.
    """

    subject: Subject
    layers: HeadLayers
    layer: LayerCall
    call: LogitsCall
    blocks: ChannelBlocks
    _maps: dict[int, HeadMap | str] = field(default_factory=dict)

    def run(self, pairs: Sequence[Pair]) -> Recovery:
        """Turn the queries; all batches stand at the layer."""
        reason = self.layers.obstacle(self.layer) or self._explore(pairs)
        if reason:
            return self._left_alone(reason)
        sums, used, there = self._sums(pairs)
        if isinstance(sums, str):
            return self._left_alone(sums)
        some = next(found for found in self._maps.values() if isinstance(found, HeadMap))
        found = fit_logits(*sums, None if some.is_free else turning(self.blocks))
        if not bool(found.matrix.isfinite().all()):
            return self._left_alone("no matrix could be found")
        return self._write(found, some, f"{used} of {there}" if used < there else str(used))

    def _write(self, found: LogitFit, where: HeadMap, used: str) -> Recovery:
        helps = found.after < found.before
        before, after = (
            percent(float(one.sum()), float(found.size.sum())) for one in (found.before, found.after)
        )
        if not bool(helps.any()):
            return self._left_alone(f"no matrix brings its logits nearer, which are {before} off")
        for number in helps.nonzero()[:, 0].tolist():
            at = self.blocks.cut[where.blocks[number]]
            self.layers.replace_rows(self.layer, at, found.matrix[number].T, self.layers, at)
        heads, count = int(helps.sum()), len(helps)
        how = "" if where.is_free else ", pairs turned and scaled"
        of = f"{heads} head{'s' * (heads != 1)}" + (f" of {count}" if heads < count else "")
        told = (
            f"error of the logits {before} -> {after} on what was not learned from, {of}{how}, {used} samples"
        )
        is_exact = float(found.after.sum()) < _FEWEST**2 * float(found.size.sum())
        return Recovery("attention", self.layer.name, "exact" if is_exact else "approximate", told)

    def _left_alone(self, reason: str) -> Recovery:
        return Recovery("attention", self.layer.name, "left alone", reason)

    def _path(self) -> HeadPath:
        node = self.call.node
        return HeadPath(self.subject.groups.graph, self.layer, self.call.query, tuple(node.reads), node.index)

    def _explore(self, pairs: Sequence[Pair]) -> str:
        """Find out which row is of which head, for batches of each form; why that cannot be, or nothing."""
        path = self._path()
        for pair in pairs:
            form = id(pair.cut.tape)
            if form not in self._maps:
                self._maps[form] = explore(path, self.blocks, pair.cut, self._split, turning(self.blocks))
            found = self._maps[form]
            if isinstance(found, str):
                return found
            sizes = found.rows.bincount(minlength=len(found.blocks))
            if bool((sizes != sizes[0]).any()):
                return "its heads meet the keys unequally often"
        kinds = {
            (tuple(one.blocks.tolist()), one.is_free)
            for one in self._maps.values()
            if isinstance(one, HeadMap)
        }
        return "batches differ in what lies behind it" if len(kinds) > 1 else ""

    def _split(self, replay: Replay, held: Held) -> Tensor:
        return self._operands(replay, held)[0]

    def _operands(self, replay: Replay, held: Held) -> tuple[Tensor, Tensor]:
        """Queries and keys, [rows, positions, width]."""
        query, key = self.call.operands(replay.named(self.call.node.index, held))
        return query.reshape(-1, *query.shape[-2:]), key.reshape(-1, *key.shape[-2:])

    def _dense(self, replay: Replay, held: Held) -> tuple[Tensor, Tensor]:
        """Of the dense model, those heads that stay."""
        query, key = self.call.operands(replay.named(self.call.node.index, held))
        dims = self.subject.groups.findings.dims[self.call.query][:-2]
        for at, dim in enumerate(dims):
            if self.subject.kept.cuts(dim):
                mask = torch.from_numpy(self.subject.kept.mask(dim))
                mask = mask.repeat(query.shape[at] // len(mask)).nonzero()[:, 0].to(query.device)
                query, key = query.index_select(at, mask), key.index_select(at, mask)
        return query.reshape(-1, *query.shape[-2:]), key.reshape(-1, *key.shape[-2:])

    def _sums(self, pairs: Sequence[Pair]) -> tuple[tuple[LogitSums, LogitSums] | str, int, int]:
        """The moments to learn from and those to judge by, the samples that are used, and those there are."""
        path = self._path()
        parts: tuple[list[LogitSums], list[LogitSums]] = ([], [])
        used = there = 0
        for pair, judges in zip(pairs, judging(pairs), strict=True):
            assert pair.dense is not None, "asked for"
            cut = self._operands(pair.cut, path.run(pair.cut))
            dense = self._dense(pair.dense, path.run(pair.dense))
            if [one.shape[:2] for one in cut] != [one.shape[:2] for one in dense]:
                return "the dense model compares other positions", 0, 0
            _require_finite(self.call, (*cut, *dense), pair.number)
            found = self._maps[id(pair.cut.tape)]
            assert isinstance(found, HeadMap), "explored"
            order = found.rows.argsort(stable=True).view(len(found.blocks), -1)
            most = self._most(order.shape[0], len(pairs))
            used, there = used + min(most, order.shape[1]), there + order.shape[1]
            order = order[:, :most].to(cut[0].device)
            operands = [one[order] for one in (*cut, *dense)]
            if judges is not None:
                parts[judges].append(LogitSums.of((operands[0], operands[1]), (operands[2], operands[3])))
                continue
            halves = _halves(operands)
            if halves is None:
                return "pass four samples or more: one judges what is learned", 0, 0
            for side, (q, k, q_d, k_d) in zip(parts, halves, strict=True):
                side.append(LogitSums.of((q, k), (q_d, k_d)))
        fit, test = (_joined(side) for side in parts)
        return (fit, test), used, there

    def _most(self, heads: int, batches: int) -> int:
        """Samples of a batch that are used."""
        return max(1, _MOST // (heads * self.blocks.width**3 * batches))


def _halves(operands: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]] | None:
    """Samples to learn from and to judge by, or else queries: [heads, samples, positions, width]."""
    at = parted(operands[0].shape[1])
    if at is not None:
        return [one[:, :at] for one in operands], [one[:, at:] for one in operands]
    at = parted(operands[0].shape[2])
    if at is None:
        return None
    query, key, query_d, key_d = operands
    first, second = ([one[:, :, :at], one[:, :, at:]] for one in (query, query_d))
    return [first[0], key, second[0], key_d], [first[1], key, second[1], key_d]


def _joined(parts: Sequence[LogitSums]) -> LogitSums:
    found = parts[0]
    for part in parts[1:]:
        found = found.join(part)
    return found


def _require_finite(call: LogitsCall, operands: Sequence[Tensor], number: int) -> None:
    if not all(bool(torch.isfinite(one).all()) for one in operands):
        raise CaptureError(
            f"queries or keys are NaN or infinite on batch {number} of the data",
            [str(call.node)],
            "leave out what is not finite in the data, or find the layer that overflows",
        )


def query_jobs(
    subject: Subject, held: HeadLayers, layers: dict[int, LayerCall]
) -> tuple[list[QueryJob], list[Recovery]]:
    """The layers whose queries can be turned, and what is left alone with the reason.

    Args:
        subject: The models.
        held: The layers of the cut model.
        layers: All layers by their calls.
    """
    graph, dims = subject.groups.graph, subject.groups.findings.dims
    jobs: list[QueryJob] = []
    notes = _unknown(subject, layers)
    for call in logits_calls(subject.groups):
        width = width_of(subject.groups, call)
        if not subject.kept.cuts(width):
            continue
        found = [
            (layer, blocks)
            for layer in maker_layers(graph, call.query, layers)
            if (blocks := blocks_of(dims[layer.output][layer.channels_at], width, subject.kept)) is not None
        ]
        if len(found) == 1:
            jobs.append(QueryJob(subject, held, found[0][0], call, found[0][1]))
        else:
            why = "no layer" if not found else f"{len(found)} layers"
            notes.append(Recovery("attention", str(call.node), "left alone", f"its queries come from {why}"))
    return jobs, notes


def _unknown(subject: Subject, layers: dict[int, LayerCall]) -> list[Recovery]:
    """Products of two activations over what lost positions that are no known ones."""
    graph, dims = subject.groups.graph, subject.groups.findings.dims
    changed = set(subject.kept.changed)
    found = []

    def lost(values: Iterable[int]) -> Iterator[set[Axis]]:
        return ({leaf for dim in dims[value] for leaf in leaves(dim)} & changed for value in values)

    for node in graph.nodes:
        live = [value for value in node.reads if value in graph.from_inputs]
        if len(live) != 2 or node.index in layers or logits_call(graph, node) is not None:
            continue
        one, two = lost(live)
        if one & two - set().union(*lost(node.makes)):
            why = f"{node.op} is no product of queries with keys that can be solved for"
            found.append(Recovery("attention", str(node), "left alone", why))
    return found
