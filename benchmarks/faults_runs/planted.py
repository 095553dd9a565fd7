"""Plant a fault in a plan, ask the proof, and decide what an unseen fault means."""

import contextlib
import time
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from pydantic import PrivateAttr
from torch import nn

import secateur as sc
from faults_runs.kinds import KINDS, OF_NUMBERS, Cut, Fault, tensors_of, wrong_cuts
from faults_runs.networks import Network
from faults_runs.reasons import UNEXPLAINED, reason_of
from faults_runs.truth import DRAWS, EQUAL, Truth, compare, depends_on

try:
    from secateur.plans.plan import Plan
    from secateur.proof import verify
except ImportError:  # the names of commit 8f7ae5f
    from secateur.check import verify
    from secateur.plan import Plan

_ZOO_DRAWS = 5
"""Draws for the independent comparison of a large model."""

_TRIES = 8
"""So many changed numbers are tried for each one that runs and is read."""


class PlantedPlan(Plan):
    """A plan that cuts wrongly, whatever values it is given: the proof cuts a model with others itself."""

    _fault: Fault | None = PrivateAttr(default=None)

    def apply(self, model: nn.Module) -> nn.Module:
        """The wrong cut."""
        cut = super().apply(model)
        return cut if self._fault is None else self._fault.plant(model, cut)


def plant(plan: Plan, fault: Fault) -> PlantedPlan:
    """A plan like another, with a fault in whatever it cuts."""
    planted = PlantedPlan(**dict(plan))
    planted._fault = fault
    return planted


class Answer(NamedTuple):
    """What the proof said of a cut: whether it passed, and the words."""

    passed: bool
    words: str


def ask(right: Cut, plan: Plan, example_inputs: Any) -> Answer:
    """Ask the proof; an error of any kind is no pass, as no user gets such a cut."""
    try:
        cut = plan.apply(right.model)
        verdict = verify(right.model, cut, example_inputs, right.groups, plan, seed=0)
    except Exception as error:  # noqa: BLE001 - whatever stops the proof, nothing is returned as exact
        return Answer(False, f"{type(error).__name__}: {error}".partition("\n")[0][:200])
    return Answer(verdict.passed, str(verdict))


@dataclass
class Trial:
    """What became of one network.

    Attributes:
        right: What the proof says of the right cut; empty where nothing was cut.
        refused: Why nothing was cut.
        planted: How many faults of each kind.
        seen: How many of them the proof saw.
        unseen: The others that change some output, with their true error.
        shown_by_none: The others that change no output, by the reason.
        cpu_seconds: What all of it took.
    """

    right: str = ""
    refused: str = ""
    planted: dict[str, int] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    unseen: list[dict[str, Any]] = field(default_factory=list)
    shown_by_none: dict[str, list[str]] = field(default_factory=dict)
    cpu_seconds: float = 0.0


def cut_rightly(network: Network) -> tuple[Cut | None, Any, str]:
    """Prune a network, and let the proof confirm that the cut is right.

    Returns:
        The cut with the inputs and what the proof says of it; or None with why there is none.
    """
    torch.manual_seed(0)
    model, inputs = network.make()
    model.eval()
    words = ""
    for check in (
        False,
        True,
    ):  # without the check first: a proof that vetoes groups would hide its blindness
        try:
            result = sc.prune(model, inputs, check=check, seed=0, **network.request)
        except Exception as error:  # noqa: BLE001 - a refusal, or a fault of the library that the table shows
            return None, inputs, f"{type(error).__name__}: {error}".partition("\n")[0][:200]
        right = Cut(model, result.model, result.groups, result.plan)
        passed, words = ask(right, result.plan, inputs)
        if passed:
            return right, inputs, words
    return None, inputs, f"the proof refuses the right cut: {words}"


def run_network(network: Network, kinds: list[str], per_kind: int) -> Trial:
    """Plant faults in one network, one at a time, and count what the proof sees."""
    started = time.process_time()
    trial = Trial()
    right, inputs, words = cut_rightly(network)
    if right is None:
        trial.refused = words
    else:
        trial.right = words
        for kind in kinds:
            for fault in faults_of(right, kind, network, inputs, per_kind):
                _count(trial, right, fault, inputs, network)
    trial.cpu_seconds = round(time.process_time() - started, 2)
    return trial


def faults_of(right: Cut, kind: str, network: Network, inputs: Any, per_kind: int) -> list[Fault]:
    """A few faults of one kind that change what the model holds or reads."""
    chosen: list[Fault] = []
    for fault in wrong_cuts(right, kind, network.name)[: per_kind * _TRIES]:
        if len(chosen) == per_kind:
            break
        if _is_read(right, fault, inputs, network) if kind in OF_NUMBERS else _changes_values(right, fault):
            chosen.append(fault)
    return chosen


def _is_read(right: Cut, fault: Fault, inputs: Any, network: Network) -> bool:
    """The wrong cut runs, and computes something else in one draw or in the example."""
    with contextlib.suppress(RuntimeError):
        found = compare(right, fault, inputs, (None, 1), network.look)
        return bool(found.draws) and found.is_visible
    return False


def _changes_values(right: Cut, fault: Fault) -> bool:
    """The tensor that is wrong holds other values than the right one."""
    wrong = fault.plant(right.model, right.plan.apply(right.model))
    return not torch.equal(tensors_of(wrong)[fault.tensor], tensors_of(right.cut)[fault.tensor])


def _count(trial: Trial, right: Cut, fault: Fault, inputs: Any, network: Network) -> None:
    trial.planted[fault.kind] = trial.planted.get(fault.kind, 0) + 1
    passed, words = ask(right, plant(right.plan, fault), inputs)
    if not passed:
        trial.seen[fault.kind] = trial.seen.get(fault.kind, 0) + 1
        return
    truth, reason = judged(right, fault, inputs, network)
    if reason:
        trial.shown_by_none.setdefault(reason, []).append(f"{fault.kind} {fault.where}: {fault.what}")
        return
    error = float(f"{truth.error:.2g}") if truth.error < float("inf") else None
    words = words.partition(" (")[0]
    found = {"kind": fault.kind, "where": fault.where, "what": fault.what, "verdict": words}
    trial.unseen.append({**found, "true_error": error})


def judged(right: Cut, fault: Fault, inputs: Any, network: Network) -> tuple[Truth, str]:
    """The independent finding on an unseen fault: its true error, and why no output shows it if none does."""
    draws = DRAWS[:_ZOO_DRAWS] if network.family.startswith("zoo") else DRAWS
    truth = compare(right, fault, inputs, draws, network.look)
    if truth.is_visible:
        return truth, ""
    is_read = not fault.tensor or depends_on(right, fault, inputs, draws, network.look)
    reason = reason_of(network.name, fault, is_read)
    return truth, "float32" if reason == UNEXPLAINED and truth.tolerance > EQUAL else reason


__all__ = [
    "KINDS",
    "Answer",
    "PlantedPlan",
    "Trial",
    "ask",
    "cut_rightly",
    "faults_of",
    "plant",
    "run_network",
]
