"""Paths: which operators a run calls, and nothing else of them.

Whether a model takes another path in another situation takes no values, no modules and no lines of code to
tell. A run that notes the operators alone takes half the time of a record.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import ref

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from secateur.capture.caches import drop_frames, forget, start_afresh
from secateur.capture.operators import is_recorded, operator_name, schema_arguments
from secateur.capture.recorder import Recorder
from secateur.capture.recording import AskedRun, Moment, run_recorded
from secateur.capture.shortcuts import run
from secateur.graph.node import Graph, Ref

CallPath = tuple[tuple[str, tuple[int, ...]], ...]
"""The operators that a run calls, each with the form of its arguments."""


def record_path(
    model: nn.Module,
    example_inputs: Any,
    substrate: str,
    *,
    training: bool,
    state: Collection[str],
    moment: Moment,
) -> tuple[CallPath, Exception | None]:
    """Record only which operators a model calls, which takes half the time of a record.

    Args:
        model: Any module; a copy of it runs.
        example_inputs: As for `capture`.
        substrate: As for `record`.
        training: As for `record`.
        state: Names of what the model returns for its next call only.
        moment: When in the life of the model.

    Returns:
        The form of each call, as `path_of` has it of a record, and what the model failed with.
    """
    start_afresh()
    ran = run_recorded(model, example_inputs, AskedRun(substrate, training, _PathRecorder, state, moment))
    recorder, failure = ran.recorder, ran.failure
    assert isinstance(recorder, _PathRecorder), "it was asked for"
    del ran
    drop_frames(failure)
    forget(recorder.made)
    return tuple(recorder.path), failure


def path_of(graph: Graph) -> CallPath:
    """The operators of a record, with the form of their arguments, without their numbers."""
    return tuple((node.op, tuple(map(_form, node.args.values()))) for node in graph.nodes)


def _form(arg: Any) -> int:
    """Of a list its length; else whether something is a tensor, or stands for one."""
    return len(arg) if isinstance(arg, (list, tuple)) else isinstance(arg, (Ref, Tensor))


class _PathRecorder(Recorder):
    """A recorder that notes which operators are called, and nothing else."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(nn.Module())
        self.path: list[tuple[str, tuple[int, ...]]] = []

    @contextmanager
    def module_stack(self) -> Iterator[None]:
        yield

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not is_recorded(func):
            return run(func, args, kwargs)
        form = tuple(_form(value) for _, value in schema_arguments(func, args, kwargs))
        output = self._run(func, args, kwargs)
        self.count += 1
        self.path.append((operator_name(func), form))
        for item in output if isinstance(output, (tuple, list)) else (output,):
            for made in item if isinstance(item, (tuple, list)) else (item,):
                self._keep(made)
        return output

    def _keep(self, tensor: Any) -> None:
        if isinstance(tensor, FakeTensor):
            self.made.append(ref(tensor))
