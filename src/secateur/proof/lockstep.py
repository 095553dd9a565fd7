"""Two models in step: both run their own Python on real tensors, one operator of each in turn.

    reference  op 0 ─┐        ┌─ op 1 ─┐        ┌─ ...
    cut model        └─ op 0 ─┘        └─ op 1 ─┘

After each pair of operators both results are at hand, before anything writes into them, and nothing is
kept: what a comparison at every operator needs is the memory of two forward passes. The cut model runs in a
thread of its own; only ever one of the two moves, so that whatever they share (caches, counters) is read
and written in a fixed order.
"""

import contextvars
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import nn

from secateur.capture import Step, follow
from secateur.capture.follower import DENSE
from secateur.capture.inputs import map_inputs
from secateur.capture.switches import recording_context
from secateur.errors import PathError, SecateurError
from secateur.graph.node import Graph, Node
from secateur.proof.draws import run

_POLL_SECONDS = 1.0
_STILL = 3
"""So many times in a row the cut model has computed nothing."""

ALONE = -1
"""The index of a call that the cut model makes and the reference does not."""

OnStep = Callable[[Step], Any]


class Stopped(BaseException):
    """The other model ended; no `Exception`, so that no model's own handlers take it for theirs."""


class EntangledError(Exception):
    """The cut model waits for a lock that the reference holds; models in turn do not."""


class FailedError(RuntimeError):
    """The reference does not run: on the numbers of a proof, or in its precision. The cause is chained."""


class Judge(Protocol):
    """What happens at each pair of operators."""

    def compute(self, step: Step, leader: Step, expected: Any) -> Any:
        """Compute the cut model's operator, given the reference's call and result."""

    def compare(self, leader: Step, expected: Any, step: Step, output: Any) -> None:
        """Look at both calls and results; may raise `Stopped` to end both runs."""


@dataclass(frozen=True, eq=False)
class Side:
    """One of two models that run in step.

    Attributes:
        model: In the mode and the precision to run in; its run may change it.
        graph: The record that it must follow. Operators of the reference that the record of the cut model
            leaves out, by their index, run alone, as do those of the cut model of the index `ALONE`.
    """

    model: nn.Module
    graph: Graph


@dataclass(frozen=True, eq=False)
class Ran:
    """How two runs in step ended.

    Attributes:
        expected: What the reference returned; None if it did not end.
        got: What the cut model returned; None if it did not end.
        failure: What the cut model failed with; None if it did not fail.
        node: The operator of the reference at which it failed.
    """

    expected: Any
    got: Any
    failure: Exception | None
    node: Node | None


def run_in_step(reference: Side, on_step: OnStep, cut: Side, judge: Judge, inputs: Any) -> Ran:
    """Run two models side by side.

    Args:
        reference: Runs first at every operator.
        on_step: Computes an operator of the reference.
        cut: Runs second.
        judge: Computes an operator of the cut model and compares both results.
        inputs: Inputs of both; each gets copies.

    Raises:
        PathError: The reference takes another path than in its record.
        FailedError: The reference does not run.
        Exception: Whatever `judge.compare` raised.
    """
    return _Pair(reference, on_step, cut, judge).run(inputs)


def _run_reference(reference: Side, inputs: Any, on_step: OnStep) -> Any:
    try:
        return follow(reference.model, cloned(inputs), reference.graph, on_step)
    except SecateurError:
        raise
    except Exception as error:
        raise FailedError(str(error) or type(error).__name__) from error


class _Pair:
    """The two runs and the turn that passes between them."""

    def __init__(self, reference: Side, on_step: OnStep, cut: Side, judge: Judge) -> None:
        self.reference, self.on_step, self.cut, self.judge = reference, on_step, cut, judge
        self.shared = {node.index for node in cut.graph.nodes}
        self.cut_moves, self.reference_moves = threading.Lock(), threading.Lock()
        self.cut_moves.acquire()
        self.reference_moves.acquire()
        self.made: tuple[Step, Any] | None = None
        self.node: Node | None = None
        self.got: Any = None
        self.failure: Exception | None = None
        self.raised: BaseException | None = None
        self.cut_ended = self.cut_computes = False
        self.thread: threading.Thread

    def run(self, inputs: Any) -> Ran:
        """Run both to the end, or to the first failure."""
        context = contextvars.copy_context()
        self.thread = threading.Thread(target=context.run, args=(self._run_cut, cloned(inputs)), daemon=True)
        expected = None
        with recording_context():
            self.thread.start()
            try:
                expected = _run_reference(self.reference, inputs, self._lead)
            except Stopped:
                pass
            finally:
                self.made = None
                self.cut_moves.release()
                self.thread.join()
        if self.raised is not None:
            raise self.raised
        return Ran(expected, self.got, self.failure, self.node if self.failure is not None else None)

    def _lead(self, step: Step) -> Any:
        """One operator of the reference; the cut model makes its own before this returns."""
        output = self.on_step(step)
        if step.node.index not in self.shared:
            return output
        self.node = step.node
        if self.cut_ended:
            if step.node.op == DENSE:
                return output
            self.failure = PathError(f"the cut model ends before {step.node}")
            raise Stopped
        self.made = (step, output)
        self.cut_moves.release()
        self._await_cut()
        if self.made is not None:  # the cut model did not come to its operator
            if self.failure is None and self.raised is None and self.cut_ended:
                self.failure = PathError(f"the cut model ends before {step.node}")
            raise Stopped
        return output

    def _await_cut(self) -> None:
        """Wait for the cut model's operator; if it stands still, it waits for a lock of the model."""
        spent, still = -1.0, 0
        while not self.reference_moves.acquire(timeout=_POLL_SECONDS):
            before, spent = spent, _cpu_seconds(self.thread)
            still = still + 1 if spent - before < 1e-3 and not self.cut_computes else 0
            if still == _STILL:
                self.raised = EntangledError("the two models wait for each other")
                raise Stopped

    def _run_cut(self, inputs: Any) -> None:
        self.cut_moves.acquire()
        try:
            if self.made is not None:
                self.got = follow(self.cut.model, inputs, self.cut.graph, self._second, on_dense=_leave_out)
        except Stopped:
            pass
        except Exception as error:  # noqa: BLE001 - a foreign model may raise anything
            self.failure = error
        except BaseException as error:  # noqa: BLE001 - an interrupt goes on in the caller's thread
            self.raised = error
        finally:
            self.cut_ended = True
            self.reference_moves.release()

    def _second(self, step: Step) -> Any:
        """One operator of the cut model, then the next of the reference before this returns."""
        if step.node.index == ALONE:
            return run(step)
        while self.made is not None and self.made[0].node.index < step.node.index:
            self._hand_over()  # a call that the cut model leaves out
        if self.made is None:
            raise Stopped
        leader, expected = self.made
        self.cut_computes = True
        output = self.judge.compute(step, leader, expected)
        try:
            self.judge.compare(leader, expected, step, output)
        except Stopped:
            raise
        except BaseException as error:  # it is the caller's, not that of the model which runs here
            self.raised = error
            raise Stopped from error
        self._hand_over()
        return output

    def _hand_over(self) -> None:
        """Let the reference make its next operator."""
        self.made, self.cut_computes = None, False
        self.reference_moves.release()
        self.cut_moves.acquire()


def _cpu_seconds(thread: threading.Thread) -> float:
    """What a thread has computed so far; 0 where that cannot be known."""
    assert thread.ident is not None, "it was started"
    try:
        return time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    except (AttributeError, OSError):
        return 0.0


def run_in_turn(reference: Side, on_step: OnStep, cut: Side, judge: Judge, inputs: Any) -> Ran:
    """Run the reference to its end, then the cut model: for models that hold a lock while they run.

    All results of the reference are kept meanwhile; calls come to the judge without their arguments.

    Args:
        reference: Runs first.
        on_step: Computes an operator of the reference.
        cut: Runs second.
        judge: As for `run_in_step`.
        inputs: Inputs of both; each gets copies.

    Raises:
        PathError: The reference takes another path than in its record.
        FailedError: The reference does not run.
    """
    made: dict[int, tuple[Step, Any]] = {}
    node: Node | None = None

    def lead(step: Step) -> Any:
        output = on_step(step)
        made[step.node.index] = replace(step, args=(), kwargs={}), map_inputs(output, torch.clone)
        return output

    def second(step: Step) -> Any:
        nonlocal node
        if step.node.index == ALONE:
            return run(step)
        node = step.node
        leader, expected = made.pop(node.index)
        output = judge.compute(step, leader, expected)
        judge.compare(leader, expected, step, output)
        return output

    with recording_context():
        expected = _run_reference(reference, inputs, lead)
        try:
            got = follow(cut.model, cloned(inputs), cut.graph, second, on_dense=_leave_out)
        except Stopped:
            return Ran(expected, None, None, None)
        except Exception as error:  # noqa: BLE001 - a foreign model may raise anything
            return Ran(expected, None, error, node)
    return Ran(expected, got, None, None)


def _leave_out(node: Node) -> None:
    """Nothing is computed where the numbers lie in a row already."""


def cloned(inputs: Any) -> Any:
    """Copies of the tensors among the inputs, which a model may write into."""
    return map_inputs(inputs, torch.clone)
