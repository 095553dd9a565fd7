"""Blocks: the layers of a block learn together, without labels, to put out what the dense block did.

    min over the weights of a block of    sum over its outputs y of  |y_cut(x) - y_dense|^2 / |y_dense|^2

at the kept positions, where x is what the cut network computes before the block, with all blocks before it
improved already. Least squares solve this for one layer; for layers with activations between them it takes
steps of Adam, a few hundred, along a cosine to zero. Gradients end at the block's border. Batch norms keep
their statistics, what would draw numbers is off, and no other tensors than parameters change. A tensor that
several blocks read stays as it is.

It never harms what it is measured by (`recovery/learning.py`): a block takes new weights only where its error
on samples that no step learns from is lower. In the end all blocks stay as they were if the outputs of the
whole network are further off, on the batch that no step learns from where there is one: a refit before has
seen all others.

What it takes is said before: a step of each block is timed first. Where all of them would take longer than
`seconds`, the steps are halved until they do not; then another machine may take other steps. Otherwise the
result repeats bit for bit on a CPU.

References:
    Li et al., "BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction", ICLR 2021,
    section 3.3 (blocks, one after the other, on what the blocks before compute). https://arxiv.org/abs/2102.05426
"""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator

from secateur.capture.copies import copy_module
from secateur.capture.replay import Replay, Tape
from secateur.capture.switches import as_written
from secateur.errors import PathError
from secateur.recovery import learning
from secateur.recovery.layers import tensors_of
from secateur.recovery.learning import Turn
from secateur.recovery.lockstep import Pair, start
from secateur.recovery.loss import output_error, outputs_of
from secateur.recovery.reach import reached_values
from secateur.recovery.step import Recovery, Subject, step
from secateur.recovery.stretches import handed_on, name_of, stretches
from secateur.recovery.target import kept

_Tensors = Mapping[int, Tensor]


@step("blocks", needs_data=True, is_learned=True)
@torch.no_grad()
def blocks(subject: Subject) -> tuple[nn.Module, list[Recovery]]:
    """Let each block that the cut reaches learn to put out what the dense block did.

    Args:
        subject: The cut model and where it comes from.

    Returns:
        A new model, and for each block how far its output was and is from the dense block's.
    """
    cut = copy_module(subject.cut)
    found = _blocks_of(subject, cut)
    if not found:
        return cut, [Recovery("blocks", "outputs", "left alone", "no block lost anything that it reads")]
    if all(block.obstacle for block in found):
        return cut, [block.told() for block in found]
    stops = [stop for block in found for stop in (block.calls.start, block.calls.stop)]
    lockstep = start(subject, cut, stops, with_dense=True)
    notes = [Recovery("blocks", "data", "limit", lockstep.note)] if lockstep.note else []
    run = _Run(subject, cut, found, lockstep.pairs)
    run.time()
    notes += run.improve()
    harm = run.harm()
    if harm:
        return copy_module(subject.cut), [*notes, Recovery("blocks", "outputs", "left alone", harm)]
    return cut, [*notes, *(block.told() for block in found)]


@dataclass(eq=False)
class _Block:
    """A stretch of the record that is improved by itself.

    Attributes:
        calls: Its calls.
        name: Its first layer, and its last.
        outputs: The values that it makes for others, as far as the cut reaches them.
        reads: All that its calls read.
        learned: Its parameters by value: the tensors of the cut model.
        shared: A parameter that other blocks read, too, so that it stays; empty if there is none.
        obstacle: Why it is not improved; empty if it is.
        writes: Some of its calls write in place.
        seconds: What a step takes.
        before: How far its output was from the dense block's, on samples that it did not learn from.
        after: How far it is.
        on: Which samples these are, in words.
    """

    calls: range
    name: str
    outputs: frozenset[int]
    reads: frozenset[int]
    learned: _Tensors
    shared: str = ""
    obstacle: str = ""
    writes: bool = False
    seconds: float = 0.0
    before: float = math.nan
    after: float = math.nan
    on: str = ""

    def told(self) -> Recovery:
        """The record of it."""
        if self.obstacle:
            return Recovery("blocks", self.name, "left alone", self.obstacle)
        if not self.after < self.before:
            why = f"no step brought its output nearer, which is {100 * self.before:.3g} % off {self.on}"
            return Recovery("blocks", self.name, "left alone", why)
        told = f"error of its output {100 * self.before:.3g} % -> {100 * self.after:.3g} % {self.on}"
        told += f", without {self.shared}, which other blocks share" if self.shared else ""
        return Recovery("blocks", self.name, "approximate", told)


def _blocks_of(subject: Subject, cut: nn.Module) -> list[_Block]:
    """The blocks whose outputs are not what they were."""
    graph, named, reached = subject.groups.graph, tensors_of(cut), reached_values(subject)
    parts = stretches(graph)
    reads = [frozenset(value for at in part for value in graph.nodes[at].reads) for part in parts]
    found = []
    for part, own in zip(parts, reads, strict=True):
        outputs = frozenset(value for value in handed_on(graph, part) if value in reached)
        if not outputs:
            continue
        held = [value for value in own if value in graph.names and graph.values[value].kind == "parameter"]
        alone = [value for value in held if sum(value in other for other in reads) == 1]
        learned = {value: named[graph.names[value][0]] for value in sorted(alone)}
        learned = {value: tensor for value, tensor in learned.items() if tensor.is_floating_point()}
        shared = next((graph.names[value][0] for value in held if value not in alone), "")
        why = "" if learned else f"other blocks share its {shared}" if shared else "it has no parameters"
        found.append(_Block(part, name_of(graph, part), outputs, own, learned, shared, why))
    return found


@dataclass(eq=False)
class _Batch:
    """Both models before a block, on one batch.

    Attributes:
        pair: The models.
        turn: What it is for.
        targets: What the dense block puts out, at the kept positions.
    """

    pair: Pair
    turn: Turn
    targets: _Tensors = field(default_factory=dict)

    def apart(self, outputs: _Tensors, *, judges: bool) -> list[Tensor]:
        """Of each output: the squares that are missing, and those that there are."""
        found = []
        for value, target in self.targets.items():
            one, two = (self.turn.part(tensor, judges=judges) for tensor in (outputs[value], target))
            found.append(torch.stack([(one - two).square().sum(), two.square().sum()]))
        return found

    def share(self, outputs: _Tensors) -> Tensor:
        """What is to be lowered: the missing share of the squares, over the samples to learn from."""
        return learning.missing_shares(self.apart(outputs, judges=False)).sum()


class _Run:
    """Improves blocks of a cut model in place, in depth order."""

    def __init__(
        self, subject: Subject, cut: nn.Module, blocks: Sequence[_Block], pairs: Sequence[Pair]
    ) -> None:
        self.subject, self.cut, self.blocks = subject, cut, blocks
        turns = learning.turns(len(pairs))
        self.batches = [_Batch(pair, turn) for pair, turn in zip(pairs, turns, strict=True)]
        self.learning = [batch for batch in self.batches if batch.turn.learns]
        self.judging = [batch for batch in self.batches if batch.turn.judges]
        self.on = learning.judged_on(turns)

    @property
    def able(self) -> list[_Block]:
        """The blocks that can be improved."""
        return [block for block in self.blocks if not block.obstacle]

    def time(self) -> None:
        """Take the time of a step of each block, on copies; those that cannot be differentiated say so."""
        pair = self.batches[0].pair
        assert self.subject.data is not None, "the step needs data"
        replay = Replay(pair.cut.tape, self.cut, self.subject.data[pair.number])
        for block in self.blocks:
            _advance(replay, block.calls.start)
            if block.obstacle:
                continue
            block.writes = _writes(replay.tape, block.calls)
            learned = _masters(block)
            optimizer = torch.optim.Adam(list(learned.values()), lr=0.0)
            try:
                for _ in range(2):  # the first one is slower
                    began = time.perf_counter()
                    _descend(replay, block, learned, _sum_of_squares)
                    optimizer.step()
                    block.seconds = time.perf_counter() - began
            except (RuntimeError, PathError) as error:
                block.obstacle = f"it cannot be differentiated: {str(error).partition(chr(10))[0]}"

    def improve(self) -> list[Recovery]:
        """Go through the blocks in order; what there is to say of the time."""
        limit = self.subject.seconds
        each = sum(block.seconds for block in self.able)
        steps = learning.steps_within(limit, each, len(self.judging))
        count, needed = len(self.able), learning.needed(steps, each, len(self.judging))
        of = f"{count} block{'s' * (count != 1)}, {steps} steps each, about {learning.told(needed)} s"
        if needed > limit:
            why = f"there is no time for it: {of}, at most {limit:g} (seconds)"
            for block in self.able:
                block.obstacle = why
            return []
        if count:
            self.subject.say(f"blocks: {of}, at most {limit:g}")
        ends = time.perf_counter() + limit
        for block in self.blocks:
            if not block.obstacle and time.perf_counter() > ends:
                block.obstacle = f"the {limit:g} s were over (seconds)"
            self._improve(block, steps)
        if steps == learning.STEPS:
            return []
        told = f"{steps} steps of each block, {learning.STEPS} would take longer than {limit:g} s (seconds)"
        return [Recovery("blocks", "time", "limit", told)]

    def _improve(self, block: _Block, steps: int) -> None:
        """Bring all batches to a block, and let it learn."""
        for batch in self.batches:
            assert batch.pair.dense is not None, "asked for above"
            _advance(batch.pair.cut, block.calls.start)
            batch.targets = _advance(batch.pair.dense, block.calls.stop, block.outputs)
        if block.obstacle:
            return
        learned = _masters(block)
        block.obstacle = self._compare_alike(block, learned)
        if not block.obstacle:
            self._learn(block, learned, steps)

    def _compare_alike(self, block: _Block, learned: _Tensors) -> str:
        """Leave those outputs that can be compared; why the block cannot be judged, or nothing."""
        fitting = set(block.outputs)
        for batch in self.batches:
            outputs = _run(batch.pair.cut, block, learned)
            batch.targets = {value: kept(one, value, self.subject) for value, one in batch.targets.items()}
            fitting &= {value for value, one in batch.targets.items() if one.shape == outputs[value].shape}
        for batch in self.batches:
            batch.targets = {value: batch.targets[value] for value in sorted(fitting)}
        targets = [one for batch in self.batches for one in batch.targets.values()]
        if not targets:
            return "its output has other sizes than the dense block's"
        return self.batches[0].turn.obstacle(targets)

    def _learn(self, block: _Block, learned: _Tensors, steps: int) -> None:
        """Take the steps, and keep the best of what was looked at."""
        block.on = self.on
        turns = learning.order(len(self.learning), steps, 1_000_003 * block.calls.start)

        def descend(at: int) -> None:
            batch = self.learning[turns[at]]
            _descend(batch.pair.cut, block, learned, batch.share)

        block.before, block.after, best = learning.learn(
            [*learned.values()], steps, descend, lambda: self._error(block, learned)
        )
        if not math.isfinite(block.before):
            block.obstacle = "its output is not finite"
        for value, tensor in zip(learned, best, strict=False):  # none where no step came nearer
            block.learned[value].copy_(tensor)

    def _error(self, block: _Block, learned: _Tensors) -> float:
        """How far the outputs are from the dense block's, where nothing is learned from."""
        apart = [batch.apart(_run(batch.pair.cut, block, learned), judges=True) for batch in self.judging]
        sums = torch.stack([torch.stack(one).cpu().double() for one in apart]).sum(0)
        return float(learning.missing_shares(sums).mean().sqrt())

    def harm(self) -> str:
        """Why the improved blocks do not improve the outputs of the model; empty if they do."""
        if not any(block.after < block.before for block in self.blocks):
            return ""
        subject, on = self.subject, "on the batch that no step saw"
        assert subject.data is not None, "the step needs data"
        judging = [] if subject.held is None else [(len(subject.data), subject.held)]
        if not judging:
            on = self.on
            judging = [(batch.pair.number, subject.data[batch.pair.number]) for batch in self.judging]
        errors = []
        for number, inputs in judging:
            models = (subject.original, subject.cut, self.cut)
            dense, *both = (outputs_of(one, inputs, number, subject.groups.graph.state) for one in models)
            errors.append([output_error(dense, one) for one in both])
        before, after = (100 * sum(column) / len(errors) for column in zip(*errors, strict=True))
        if not after > before:
            return ""
        return f"together the blocks bring them no nearer, {before:.3g} % -> {after:.3g} % {on}"


def _masters(block: _Block) -> dict[int, Tensor]:
    """Copies of a block's parameters that learn, in float32 at least."""
    wide = {
        value: torch.promote_types(tensor.dtype, torch.float32) for value, tensor in block.learned.items()
    }
    return {
        value: tensor.detach().to(wide[value], copy=True).requires_grad_()
        for value, tensor in block.learned.items()
    }


def _advance(replay: Replay, end: int, wanted: frozenset[int] = frozenset()) -> dict[int, Tensor]:
    """Work off all calls before one; the values among those that are wanted.

    Not by `Replay.advance`, whose tensors are those of inference and can take no part in learning.
    """
    found: dict[int, Tensor] = {}
    with as_written():
        while replay.position < end:
            outputs = replay.tape.calls[replay.position].outputs
            replay.step()
            made = zip(outputs, replay.results, strict=True)
            found.update({value: result for value, result in made if value in wanted})
    return found


def _run(replay: Replay, block: _Block, learned: _Tensors) -> dict[int, Tensor]:
    """What a block puts out with other parameters; the replay stays before it."""
    held = {
        value: tensor.detach()
        for value, tensor in (replay.tensors | replay.values).items()
        if value in block.reads or value < 0
    }
    if block.writes:
        held = copy.deepcopy(held)  # views share the memory of the copies
    held |= {value: tensor.to(block.learned[value].dtype) for value, tensor in learned.items()}
    fork = Replay.standing_at(replay.tape, nn.Module(), block.calls.start, held)
    return _advance(fork, block.calls.stop, block.outputs)


def _descend(
    replay: Replay, block: _Block, learned: _Tensors, loss_of: Callable[[_Tensors], Tensor]
) -> float:
    """Give the parameters their gradients."""
    for tensor in learned.values():
        tensor.grad = None
    with torch.enable_grad():
        loss = loss_of(_run(replay, block, learned))
    loss.backward()
    return loss.item()  # waits for a GPU, too


def _sum_of_squares(outputs: _Tensors) -> Tensor:
    return torch.stack([output.float().square().sum() for output in outputs.values()]).sum()


def _writes(tape: Tape, calls: range) -> bool:
    """Whether a call writes in place."""
    funcs = [tape.calls[at].func for at in calls]
    return any(not isinstance(func, HigherOrderOperator) and func._schema.is_mutable for func in funcs)
