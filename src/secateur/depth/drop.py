"""Drop whole residual blocks: layer pruning.

model, example -> capture -> couple -> find blocks -> score -> drop the least -> check -> result
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import nn

from secateur.capture import capture, record
from secateur.capture.calls import ModuleCall, record_calls
from secateur.capture.meta import placed, require_values
from secateur.capture.unwrap import unwrap, warn_of_compiled
from secateur.costs import cost_of
from secateur.coupling import couple_graph, has_unused_parameters, on_any_substrate
from secateur.coupling.protect import Protected, protected_names
from secateur.cut.shorten import renamed
from secateur.cut.skip import PLAIN
from secateur.depth.blocks import Block, Found, find_blocks
from secateur.depth.cached import verify_steps
from secateur.depth.numbering import leaving, number
from secateur.depth.proof import compare_dropped, verify_dropped
from secateur.depth.rank import score_blocks
from secateur.depth.wiring import read_otherwise
from secateur.errors import CheckError, CutError, NoEffectWarning, RequestError
from secateur.graph.node import Graph
from secateur.plans.making import identity_plan
from secateur.plans.memory import remember
from secateur.plans.plan import Plan, Request
from secateur.proof import Verdict
from secateur.proof.draws import draws
from secateur.result import Result, cost_table
from secateur.rich import Table
from secateur.score.criterion import Scorer
from secateur.tables import printed


@dataclass(frozen=True, eq=False)
class Dropped(Result):
    """What `drop_blocks` returns: a `Result` whose plan drops blocks and cuts no channel.

    Attributes:
        blocks: Every block that could be dropped, in the order of the network.
        scores: The score of each by name; larger means keep.
        reasons: Why other modules of the same kind were left alone.
        notes: What else there is to say, such as what the model's config cannot describe.
    """

    blocks: tuple[Block, ...] = field(default=(), repr=False)
    scores: Mapping[str, float] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()

    def table(self) -> Table:
        """The table that `print` shows: cost, then the blocks with their scores."""
        title = f"dropped {len(self.plan.dropped)} of {len(self.blocks)} blocks of {self.plan.model}"
        blocks = ("blocks", len(self.blocks), len(self.blocks) - len(self.plan.dropped))
        return cost_table(title, self.before, self.after, blocks)

    def __str__(self) -> str:
        lines = [printed(self.table())]
        for block in self.blocks:
            mark = "dropped" if block.name in self.plan.dropped else "kept"
            score = self.scores[block.name]
            lines.append(f"{block.name}: {block.params:,} parameters, score {score:.4g}, {mark}")
        lines += [f"{name}: left alone, {reason}" for name, reason in self.reasons.items()]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"check: {self.verdict or 'not asked for'}"]
        return "\n".join(lines)


def drop_blocks(
    model: nn.Module,
    example_inputs: Any,
    *,
    count: int | None = None,
    ratio: float | None = None,
    blocks: Sequence[str] | None = None,
    criterion: str | Scorer = "l2",
    protect: Protected | Sequence[Protected] = (),
    check: bool = True,
    seed: int = 0,
) -> Dropped:
    """Drop residual blocks: the least important ones become identities, or leave the list that holds them.

    A block is a module that returns its input plus something, with the same shape and the same axes; see
    `secateur.depth.blocks`. Its score is the mean of a criterion over what it holds; see
    `secateur.depth.rank`. A block in an `nn.ModuleList` leaves it: those behind it move up, also in the state
    dict (`Plan.renamed`), and what numbers and counts layers follows, configs included; see
    `secateur.depth.numbering`. Elsewhere, and where other numbers would change what is computed, something
    that hands on its input takes its place, and all other modules keep their names.

    Args:
        model: Any module; not changed.
        example_inputs: A tensor, a tuple of positional inputs or a dict of keyword inputs.
        count: How many blocks to drop.
        ratio: Which share of the blocks to drop, 0 <= ratio <= 1, instead of a count.
        blocks: Patterns of the names of modules to choose from; None chooses from all blocks found. With
            neither count nor ratio, all that fit are dropped.
        criterion: "l1", "l2", "bn-scale", "random", or a callable from a group's view to scores.
        protect: Patterns of names of blocks that stay, or the blocks themselves.
        check: Prove that the dropped model computes what the original does without the blocks' branches.
        seed: For criteria and checks that draw.

    Returns:
        The new model with its plan, proof and cost.

    Raises:
        RequestError: The request makes no sense, or there are not that many blocks (with the reasons).
        CaptureError: The model cannot be run on these inputs.
        CutError: The model does not run without the blocks.
        CheckError: The dropped model computes something else.

    Example:
        >>> import torch
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.inner, self.outer = nn.Linear(4, 8), nn.Linear(8, 4)
        ...
        ...     def forward(self, x):
        ...         return x + self.outer(self.inner(x).relu())
        >>> model = nn.Sequential(nn.Linear(3, 4), Block(), Block(), nn.Linear(4, 2))
        >>> _ = nn.init.zeros_(model[2].outer.weight)
        >>> result = drop_blocks(model, torch.zeros(1, 3), count=1)
        >>> result.plan.dropped, result.model[2], result.verdict.exact
        (('2',), Identity(), True)

    References:
        Men et al., "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect", 2024,
        section 3: whole layers may go. https://arxiv.org/abs/2403.03853
    """
    model = unwrap(model)
    warn_of_compiled(model)
    if check:
        require_values(model)
    asked = _Request(count, ratio, blocks, criterion, protected_names(model, protect), check, seed)
    return on_any_substrate(lambda substrate: _drop_on(model, example_inputs, substrate, asked), "fake")


def check_dropped(model: nn.Module, example_inputs: Any, plan: Plan, seed: int = 0) -> Verdict:
    """Prove a plan that drops blocks on the model that it was made for.

    Args:
        model: The original; not changed.
        example_inputs: As for `drop_blocks`.
        plan: What drops its blocks and cuts no channel.
        seed: For the random inputs and parameters.
    """
    return on_any_substrate(lambda on: _check_on(model, example_inputs, on, plan, seed), "fake")


def _check_on(model: nn.Module, example_inputs: Any, substrate: str, plan: Plan, seed: int) -> Verdict:
    dropper = Dropper(model, example_inputs, substrate, check=True, seed=seed)
    found = dropper.found
    for name in plan.dropped:
        if name not in found.droppable:
            reason = found.unfit.get(name, "no such block")
            return Verdict(math.inf, 0.0, failure=f"{name} cannot be dropped: {reason}")
    attempt = dropper.judge([found.droppable[name] for name in plan.dropped], plan)
    return attempt.verdict or Verdict(math.inf, 0.0, failure=attempt.problem)


@dataclass(frozen=True)
class _Request:
    """What a user asks for, as `drop_blocks` explains it."""

    count: int | None
    ratio: float | None
    blocks: Sequence[str] | None
    criterion: str | Scorer
    protect: Sequence[str]
    check: bool
    seed: int


def _drop_on(model: nn.Module, example_inputs: Any, substrate: str, asked: _Request) -> Dropped:
    dropper = Dropper(model, example_inputs, substrate, check=asked.check, seed=asked.seed)
    chosen = _choose(dropper.found, asked.blocks, asked.protect)
    wanted = _wanted(asked, chosen)
    scores = score_blocks(model, dropper.groups, chosen, asked.criterion, asked.seed)
    reasons = dict(dropper.found.reasons)
    while True:
        open_blocks = [block for block in chosen if block.name not in reasons]
        if len(open_blocks) < wanted:
            raise _too_few(wanted, open_blocks, reasons)
        least = sorted(open_blocks, key=lambda block: scores[block.name])[:wanted]
        attempt = dropper.drop(sorted(least, key=chosen.index))
        if attempt.problem is None:
            break
        reasons.update(dropper.blame(attempt))
    kind, value = ("count", wanted) if asked.ratio is None else ("ratio", asked.ratio)
    plan = Plan.of(attempt.model) or attempt.plan
    plan = plan.model_copy(update={"reasons": reasons, "requested": Request(kind=kind, value=value)})
    remember(attempt.model, plan)
    return Dropped(
        model=attempt.model,
        plan=plan,
        verdict=attempt.verdict,
        before=cost_of(model, dropper.groups),
        after=cost_of(attempt.model, couple_graph(attempt.graph)),
        groups=dropper.groups,
        original=model,
        example_inputs=example_inputs,
        blocks=tuple(chosen),
        scores=scores,
        reasons=reasons,
        notes=attempt.notes,
    )


def _choose(found: Found, patterns: Sequence[str] | None, protect: Sequence[str]) -> list[Block]:
    """The blocks to choose from, at least one."""
    blocks = found.blocks if patterns is None else found.matching(_listed(patterns))
    stay: dict[str, str] = {}
    for pattern in _listed(protect):
        hits = [block.name for block in blocks if block.fits(pattern)]
        if not hits:
            raise RequestError(
                f"protect pattern '{pattern}' fits no block",
                [f"blocks: {', '.join(block.name for block in blocks) or 'none'}"],
                "give the name of a block, or a pattern such as 'layer4.*'",
            )
        stay.update(dict.fromkeys(hits, f"asked for by protect='{pattern}'"))
    chosen = [block for block in blocks if block.name not in stay]
    if not chosen:
        raise RequestError(
            "no block can be dropped",
            [f"{name}: {reason}" for name, reason in {**stay, **found.reasons}.items()],
            "a block returns its input plus something, in the same shape and on the same axes",
        )
    return chosen


def _listed(patterns: Sequence[str]) -> list[str]:
    return [patterns] if isinstance(patterns, str) else list(patterns)


def _wanted(asked: _Request, chosen: Sequence[Block]) -> int:
    """How many blocks to drop."""
    count, ratio = asked.count, asked.ratio
    if count is not None and ratio is not None:
        raise RequestError(f"count is {count} and ratio is {ratio}", do="give one of them")
    if count is None and ratio is None:
        if asked.blocks is None:
            raise RequestError(
                "neither count nor ratio nor blocks was given", do="pass count=1, or a share as ratio"
            )
        return len(chosen)
    if count is None:
        assert ratio is not None, "one of them was given"
        if not 0 <= ratio <= 1:
            raise RequestError(f"ratio is {ratio}", ["allowed: 0 <= ratio <= 1"], "pass a share such as 0.25")
        count = round(ratio * len(chosen))
        if ratio and not count:
            raise RequestError(
                f"ratio={ratio} of {len(chosen)} blocks drops none", do=f"pass {1 / len(chosen):.2g} or more"
            )
    if count < 0:
        raise RequestError(f"count is {count}", ["allowed: 0 or more"], "pass how many blocks to drop")
    if not count:
        warnings.warn("0 blocks were asked for: nothing is dropped", NoEffectWarning, stacklevel=4)
    return count


def _too_few(wanted: int, blocks: Sequence[Block], reasons: Mapping[str, str]) -> RequestError:
    return RequestError(
        f"{wanted} blocks were to be dropped, {len(blocks)} can be",
        [*(block.name for block in blocks), *(f"{name}: {reason}" for name, reason in reasons.items())],
        "ask for fewer, or name other modules with blocks=",
    )


@dataclass(frozen=True, eq=False)
class _Attempt:
    """A dropped model, and what speaks against it.

    Attributes:
        blocks: The blocks that were dropped.
        plan: What drops them.
        model: The dropped model.
        graph: Its record.
        problem: What is wrong with it; None if nothing is.
        verdict: The proof by number; None if it was not asked for or not reached.
        notes: What else there is to say of it.
    """

    blocks: tuple[Block, ...]
    plan: Plan
    model: nn.Module
    graph: Graph
    problem: str | None = None
    verdict: Verdict | None = None
    notes: tuple[str, ...] = ()


def _record(model: nn.Module, example_inputs: Any, substrate: str) -> tuple[Graph, tuple[ModuleCall, ...]]:
    """Record on fake tensors; where the model does not run on those, on what it does run on."""
    graph, calls, failure = record_calls(model, example_inputs, substrate)
    if failure is not None:
        substrate = capture(model, example_inputs).substrate
        graph, calls, _ = record_calls(model, example_inputs, substrate)
    return graph, calls


_TRIES = 4
"""How many times two models that draw in training may differ."""


class Dropper:
    """Drops choices of blocks from one model and tells what is wrong with the result."""

    def __init__(
        self, model: nn.Module, example_inputs: Any, substrate: str, *, check: bool, seed: int
    ) -> None:
        self.model = model
        self.example_inputs = example_inputs
        self.check = check
        self.seed = seed
        graph, calls = _record(*placed(model, example_inputs), substrate)
        self.groups = couple_graph(graph)
        self.found = find_blocks(graph, calls, self.groups)

    @cached_property
    def trained(self) -> Graph | None:
        """The record of the original in training mode; None if it does not run."""
        graph, failure = self._in_training(self.model)
        return graph if failure is None else None

    def _in_training(self, model: nn.Module) -> tuple[Graph, Exception | None]:
        held, example_inputs = placed(model, self.example_inputs)
        graph = self.groups.graph
        return record(held, example_inputs, graph.substrate, training=True, state=graph.state)

    def _training_problem(self, model: nn.Module, plan: Plan) -> Exception | str | None:
        """What is wrong in training, where parts may run that the record of the eval mode did not show."""
        if not (plan.lists or has_unused_parameters(self.groups.graph)) or self.trained is None:
            return None
        original, problem = self.trained, None
        for _ in range(_TRIES if any(draws(node) for node in self.trained.nodes) else 1):
            graph, failure = self._in_training(model)
            problem = failure or (read_otherwise(original, graph, plan) if plan.lists else None)
            if problem is None:
                break
            original = self._in_training(self.model)[0]  # layers may be left out by chance
        return problem

    def drop(self, blocks: Sequence[Block]) -> _Attempt:
        """Drop blocks and check the result.

        Where they are items of lists they leave these; should that be wrong, something stands in their place.
        """
        standing = self.plan(blocks)
        lists = leaving(self.model, standing.dropped)
        if not lists:
            return replace(self.judge(blocks, standing), notes=self._of_places(standing, lists))
        numbering = number(self.model, lists)
        forms = {name: form for name, form in standing.forms.items() if renamed(name, lists) is not None}
        update = {"forms": forms, "lists": lists, "numbers": numbering.numbers}
        left = self.judge(blocks, standing.model_copy(update=update))
        if left.problem is None:
            return replace(left, notes=(*numbering.notes, *self._of_places(standing, lists)))
        stood = self.judge(blocks, standing)
        if stood.problem is not None:
            return replace(left, problem=f"{left.problem}; with something in its place {stood.problem}")
        note = f"what was dropped from {', '.join(lists)} leaves a place behind: {left.problem}"
        return replace(stood, notes=(note, *self._of_places(standing, {})))

    def _of_places(self, plan: Plan, lists: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
        """What to say of blocks that leave a place behind in a model that is saved by its config."""
        places = [name for name in plan.dropped if renamed(name, lists) is not None]
        if not places or not hasattr(self.model, "save_pretrained"):
            return ()
        where = ", ".join(places)
        return (f"from_pretrained would put fresh layers in the place of {where}; sc.load does not",)

    def plan(self, blocks: Sequence[Block]) -> Plan:
        """The plan that puts something in the place of blocks."""
        return identity_plan(self.model, "", {}).model_copy(
            update={
                "dropped": tuple(block.name for block in blocks),
                "forms": {block.name: block.form for block in blocks if block.form != PLAIN},
            }
        )

    def judge(self, blocks: Sequence[Block], plan: Plan) -> _Attempt:
        """Apply a plan and find what is wrong with the model that it makes."""
        model = plan.apply(self.model)
        held, example_inputs = placed(model, self.example_inputs)
        graph, failure = record(
            held, example_inputs, self.groups.graph.substrate, state=self.groups.graph.state
        )
        attempt = _Attempt(tuple(blocks), plan, model, graph)
        rest, deviation = compare_dropped(self.groups, blocks, plan, graph, failure)
        if deviation is not None:
            return replace(attempt, problem=f"the model does not run without it ({deviation})")
        problem = self._training_problem(model, plan)
        if problem is not None:
            return replace(attempt, problem=f"the model does not train without it ({problem})")
        if not self.check:
            return attempt
        verdict = verify_dropped(self.model, model, self.example_inputs, rest, plan, self.seed)
        if verdict.passed:
            stepped = verify_steps(self.model, plan, self.plan(blocks), self.example_inputs, self.seed)
            verdict = replace(verdict, failure=stepped.failure, limits=(*verdict.limits, *stepped.limits))
        return replace(attempt, verdict=verdict, problem=verdict.failure)

    def blame(self, attempt: _Attempt) -> dict[str, str]:
        """The blocks that cannot be dropped although nothing in the record says so.

        Raises:
            CheckError, CutError: Each can be dropped alone, but not all together.
        """
        alone = {block.name: self.drop([block]).problem for block in attempt.blocks}
        culprits = {name: problem for name, problem in alone.items() if problem is not None}
        if not culprits:
            names = ", ".join(block.name for block in attempt.blocks)
            kind = CutError if attempt.verdict is None else CheckError
            raise kind(
                f"each of these blocks can be dropped, but not all of them: {names}",
                [str(attempt.problem)],
                "protect one of them",
            )
        return culprits
