"""A record of one run: every operator that the forward pass of a model's copy dispatches.

Substrate (measured over 288 models, docs/decisions/0003-capture.md): a `TorchDispatchMode` under
`torch.inference_mode()`, where composite operators (`linear`, `chunk`, attention) stay whole. Fake tensors
first: no memory, no arithmetic. Real tensors where a model looks at numbers.
"""

import importlib
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from secateur.capture.caches import drop_frames, forget, start_afresh
from secateur.capture.frugal import fake_mode
from secateur.capture.inputs import as_call, map_inputs, require_tensors
from secateur.capture.outside import outside_kept
from secateur.capture.randomness import OwnNumbers
from secateur.capture.recorder import Recorder
from secateur.capture.shadow import has_other_attributes, own_inputs, shadow
from secateur.capture.state import Counting, resolve
from secateur.capture.switches import garbage_waits, recording_context
from secateur.errors import CaptureError, RequestError, SecateurError
from secateur.graph.node import Graph

_SYMBOLS = "torch.fx.experimental.symbolic_shapes"
"""Imports sympy, which costs a fifth of PyTorch; only numbers as symbols need it."""


def capture(
    model: nn.Module,
    example_inputs: Any,
    substrate: str = "auto",
    state: Collection[str] | Counting | None = None,
) -> Graph:
    """Record one forward pass of a copy of the model in eval mode; the model itself is not touched.

    Args:
        model: Any module.
        example_inputs: A tensor, a tuple of positional inputs or a dict of keyword inputs.
        substrate: "fake" tensors (no memory, no arithmetic), "real" ones, or "auto": fake, and real where
            the model looks at numbers.
        state: Names of what the model returns for its next call only, or what counts; None to find out.

    Returns:
        The record.

    Raises:
        CaptureError: The model cannot be run on these inputs; the cause is chained.

    Example:
        >>> graph = capture(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.zeros(1, 3))
        >>> [node.op for node in graph.nodes]
        ['aten.linear', 'aten.relu']
        >>> graph.nodes[0].modules
        ('', '0')
    """
    if substrate not in ("auto", "fake", "real"):
        raise RequestError(f"substrate is '{substrate}'", do="choose 'auto', 'fake' or 'real'")
    failure: Exception | None = None
    attempts = {"auto": ("fake", "symbolic", "real"), "fake": ("fake", "symbolic"), "real": ("real",)}
    for attempt in attempts[substrate]:
        if attempt == "symbolic" and isinstance(failure, DynamicOutputShapeException):
            continue  # a number may stand for a value, not for the size of a recorded tensor
        graph, error = record(model, example_inputs, attempt, state=state)
        if error is None:
            return graph
        if isinstance(error, SecateurError):
            raise error
        if failure is None or not _looked_at_numbers(error):
            failure = error
    assert failure is not None, "every attempt returned or failed"
    context = [*_shapes_of(example_inputs), *getattr(failure, "__notes__", ())]
    said = f"{type(failure).__name__}: {failure}"
    if _runs_plainly(model, example_inputs):
        raise CaptureError(
            f"the model runs on the example inputs, but not while it is recorded: {said}",
            [*context, "it is recorded in eval mode, in inference_mode, on tensors without gradients"],
            "let forward do without gradients and without the identity of its tensors",
        ) from failure
    raise CaptureError(
        f"the model does not run on the example inputs: {said}",
        context,
        "pass inputs that model(*inputs) accepts in eval mode, or mend what the line above names",
    ) from failure


def _looked_at_numbers(error: Exception) -> bool:
    """Whether a run on tensors without numbers ended where the model asked for some."""
    if isinstance(error, (DataDependentOutputException, DynamicOutputShapeException)):
        return True
    symbols = sys.modules.get(_SYMBOLS)  # an error of a module that nobody imported is none of its
    return symbols is not None and isinstance(error, symbols.GuardOnDataDependentSymNode)


def _runs_plainly(model: nn.Module, example_inputs: Any) -> bool:
    """Whether a copy of a model, with its own parameters, runs where nothing watches it."""
    args, kwargs = as_call(map_inputs(example_inputs, lambda leaf: leaf.detach().clone()))
    try:
        with torch.inference_mode(False), torch.enable_grad():
            shadow(model).eval()(*args, **kwargs)
    except Exception:  # noqa: BLE001 - a foreign model may raise anything
        return False
    return True


def _shapes_of(example_inputs: Any) -> list[str]:
    shapes: list[str] = []

    def note(leaf: Tensor) -> Tensor:
        shapes.append(str(list(leaf.shape)))
        return leaf

    map_inputs(example_inputs, note)
    on_meta = torch.empty(0).is_meta
    return [
        f"input shapes: {', '.join(shapes)}",
        *(
            ["the default device is meta: what forward makes without a device has no numbers"]
            if on_meta
            else []
        ),
    ]


def record(
    model: nn.Module,
    example_inputs: Any,
    substrate: str,
    *,
    training: bool = False,
    state: Collection[str] | Counting | None = None,
    make: Callable[[nn.Module], Recorder] | None = None,
    moment: "Moment | None" = None,
) -> tuple[Graph, Exception | None]:
    """Record as far as the model runs.

    Args:
        model: Any module; a copy of it runs.
        example_inputs: As for `capture`.
        substrate: "fake", "symbolic" (fake, with numbers as symbols) or "real".
        training: Run the copy in training mode; else in eval mode.
        state: Names of what the model returns for its next call only, or what counts; None to find out.
        make: Makes the recorder; None is a plain one.
        moment: When in the life of the model; None is its next call.

    Returns:
        The record, partial if the model failed, and what it failed with.
    """
    start_afresh()
    asked = AskedRun(substrate, training, make or Recorder, state, moment or Moment())
    graph, failure, made = _record(model, example_inputs, asked)
    drop_frames(failure)
    forget(made)
    return graph, failure


@dataclass(frozen=True)
class Moment:
    """When in the life of a model a run is recorded, and with which luck.

    Attributes:
        calls: How many runs on the same inputs come before it.
        seed: Of the random numbers that it draws.
    """

    calls: int = 0
    seed: int = 0


@dataclass(frozen=True)
class AskedRun:
    """What to record.

    Attributes:
        substrate: As for `record`, like all that follows.
        training: In training mode.
        make: Makes the recorder.
        state: What the model returns for its next call only, or what counts.
        moment: When in the life of the model.
    """

    substrate: str
    training: bool
    make: Callable[[nn.Module], Recorder]
    state: Collection[str] | Counting | None
    moment: Moment


@dataclass(frozen=True, eq=False)
class RecordedRun:
    """A run that was recorded, as far as it came.

    Attributes:
        recorder: What recorded it.
        held: The copy of the model that ran.
        returned: What it returned, held until the record is closed: that is in use.
        outputs: The tensors in that which count.
        failure: What it failed with; None if it did not.
        state: Names of what it returned for its next call only, or what counts.
        changed: The places outside of the model that it changed.
    """

    recorder: Recorder
    held: nn.Module
    returned: Any
    outputs: list[Tensor]
    failure: Exception | None
    state: Any
    changed: list[Any]


def _record(
    model: nn.Module, example_inputs: Any, asked: AskedRun
) -> tuple[Graph, Exception | None, list[ref[Tensor]]]:
    ran = run_recorded(model, example_inputs, asked)
    recorder, state = ran.recorder, ran.state
    known = () if state is None or isinstance(state, Counting) else state
    has_changed = bool(ran.changed) or recorder.has_written or has_other_attributes(ran.held, model)
    graph = replace(
        recorder.finish(ran.outputs, asked.substrate, known),
        seed=asked.moment.seed,
        calls=asked.moment.calls,
        leaves_traces=has_changed,
        training=asked.training,
    )
    return graph, ran.failure, recorder.made


def run_recorded(model: nn.Module, example_inputs: Any, asked: AskedRun) -> RecordedRun:
    """Run a copy of a model under a recorder.

    Args:
        model: Any module.
        example_inputs: As for `capture`.
        asked: What to record.
    """
    substrate, seed, state = asked.substrate, asked.moment.seed, asked.state
    fake = None if substrate == "real" else fake_mode()
    if substrate == "symbolic":
        symbols = importlib.import_module(_SYMBOLS).ShapeEnv()
        fake = FakeTensorMode(allow_non_fake_inputs=True, shape_env=symbols)
    held = shadow(model, fake).train(asked.training)
    recorder = asked.make(held)
    recorder.seed = seed if fake is None else None
    outputs: list[Tensor] = []
    output: Any = None
    failure: Exception | None = None
    with (
        outside_kept(model, seed) as changed,
        recording_context(),
        garbage_waits(),
        fake or OwnNumbers(seed),
    ):
        args, kwargs = as_call(own_inputs(example_inputs, fake))
        recorder.add_inputs((args, kwargs))
        try:
            for _ in range(asked.moment.calls):
                with Recorder(held):  # it knows small constants: counters in buffers
                    held(*args, **kwargs)
            with recorder.module_stack(), recorder:
                output = held(*args, **kwargs)
            state = resolve(held, output, (args, kwargs), state)
            outputs = require_tensors(output, state)
        except Exception as error:  # noqa: BLE001 - a foreign model may raise anything
            failure = error
    return RecordedRun(recorder, held, output, outputs, failure, state, changed)
