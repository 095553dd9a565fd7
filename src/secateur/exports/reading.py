"""Reading back: the program that a file is for computes its outputs, which must be those of the model."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.capture.inputs import as_call
from secateur.errors import ExportError, RequestError
from secateur.exports import fresh
from secateur.exports.format import ExportSubject, Format
from secateur.exports.trials import Trial, computed

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Of the spread of an output: what the rounding of long networks may cost. A wrong file is off by more."""

_READERS = Path(__file__).parent / "readers"
_OTHERS = 1e-3
_LAST_LINES = 6
_PLAIN = (Tensor, bool, int, float, str, type(None))


def read_back(
    format: Format, subject: ExportSubject, path: Path, trials: Iterable[Trial], scratch: Path
) -> tuple[str, dict[str, float]]:
    """Open a file with its program and compare what it computes with what the model does.

    Args:
        format: Of the file.
        subject: What was written.
        path: The file.
        trials: Inputs and what the model makes of them.
        scratch: An empty folder for what goes between the processes.

    Returns:
        Name and version of the program, and the largest error of each trial.

    Raises:
        ExportError: The program does not open the file, does not run it, or computes something else.
    """
    reader = Path(format.reader)
    reader = reader if reader.suffix else _READERS / f"{reader}.py"
    here = format.here(subject)
    tried = [replace(one, expected=one.expected[: format.outputs]) for one in trials]
    if here is not None:
        program, run = fresh.load(str(reader), str(path), here)
        results = [list(computed(run, trial.inputs)) for trial in tried]
    else:
        program, results = _run_fresh([str(reader), str(path)], format.about(subject), tried, scratch)
    errors: dict[str, float] = {}
    for trial, found in zip(tried, results, strict=True):
        baked = "a size of the example is baked into the file" if errors and subject.open else ""
        errors[trial.name] = compare(trial, found, program, baked)
    return program, errors


def _run_fresh(
    words: list[str], about: Mapping[str, Any], trials: list[Trial], scratch: Path
) -> tuple[str, list[list[Tensor]]]:
    """Run a file on the trials in a process of its own."""
    places = scratch / "inputs", scratch / "outputs"
    for place in places:
        place.mkdir()
    for number, trial in enumerate(trials):
        save_inputs(trial.inputs, places[0] / f"{number}.safetensors")
    command = [sys.executable, "-I", fresh.__file__, *words, *map(str, places), json.dumps(about)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", env=environment, check=False
    )
    if done.returncode:
        why = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        at = len(list(places[1].iterdir()))
        during = f"on {trials[at].name}" if at < len(trials) else "at its end"
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        # TorchScript writes where a file was made behind what is wrong with it.
        wrong = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
        said = wrong[-1:] or lines[-_LAST_LINES:]
        what = f"{Path(words[1]).name} cannot be read back {during}: its reader ended with {why}"
        raise ExportError(what, said)
    program = done.stdout.strip().rpartition("\n")[2]
    results = []
    for number in range(len(trials)):
        found = load_file(places[1] / f"{number}.safetensors")
        results.append([found[name] for name in sorted(found)])
    return program, results


def save_inputs(inputs: Any, path: Path) -> None:
    """Write inputs for another process: tensors by number, and how they are nested into arguments.

    Raises:
        RequestError: They hold something that no file can.
    """
    leaves, form = pytree.tree_flatten(as_call(inputs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    plain = ["tensor" if isinstance(leaf, Tensor) else [leaf] for leaf in leaves]
    try:
        header = {"leaves": json.dumps(plain), "form": pytree.treespec_dumps(form)}
    except (TypeError, ValueError, NotImplementedError) as error:
        odd = next((type(leaf).__name__ for leaf in leaves if not isinstance(leaf, _PLAIN)), "container")
        raise RequestError(
            f"the example inputs hold a {odd} that another process cannot be given",
            [str(error).partition("\n")[0]],
            "pass tensors, numbers, and tuples, lists or dicts of them",
        ) from error
    save_file({f"{at:06}": one.detach().clone().contiguous() for at, one in enumerate(tensors)}, path, header)


def compare(trial: Trial, found: list[Tensor], program: str, why: str = "") -> float:
    """The largest difference of the outputs over the spread of each.

    Args:
        trial: What the model computes.
        found: What the program does.
        program: Its name.
        why: What explains a difference.

    Raises:
        ExportError: Their number, shapes or values differ.
    """
    expected = trial.expected
    shapes = [[list(one.shape) for one in side] for side in (expected, found)]
    if shapes[0] != shapes[1]:
        raise ExportError(
            f"{program} computes other outputs than the model on {trial.name}",
            [f"the model: {_listed(shapes[0])}", f"the file: {_listed(shapes[1])}", *([why] if why else [])],
        )
    worst = 0.0
    for number, (one, two) in enumerate(zip(expected, found, strict=True)):
        error = difference(one, two)
        allowed = TOLERANCES.get(one.dtype, _OTHERS)
        if not error <= allowed:
            raise ExportError(
                f"{program} computes other numbers than the model on {trial.name}: "
                f"output {number} differs by {error:.1e}",
                [f"allowed: {allowed:.0e} of the spread of the output", *([why] if why else [])],
            )
        worst = max(worst, error)
    return worst


def _listed(shapes: list[list[int]]) -> str:
    return f"{len(shapes)} tensors, {', '.join(map(str, shapes[:6]))}"


def difference(expected: Tensor, got: Tensor) -> float:
    """The largest difference over the spread of the numbers; infinite where what is not finite differs.

    A constant added to all numbers hides nothing so, as it would were the difference taken over the largest.

    Example:
        >>> difference(torch.tensor([100.0, 101.0]), torch.tensor([100.0, 101.1]))
        0.0999...
    """
    if not expected.numel():
        return 0.0
    if not (expected.is_floating_point() or expected.is_complex()):
        return 0.0 if torch.equal(expected, got.to(expected.dtype)) else float("inf")
    one, two = (
        torch.view_as_real(side.to(torch.complex128)) if side.is_complex() else side.double()
        for side in (expected, got)
    )
    finite = one.isfinite()
    same = (one == two) | (one.isnan() & two.isnan())
    if not bool((same | (finite & two.isfinite())).all()):
        return float("inf")
    if not bool(finite.any()):
        return 0.0
    numbers = one[finite]
    spread = float(numbers.max() - numbers.min()) or float(numbers.abs().max()) or 1.0
    return float((numbers - two[finite]).abs().max()) / spread
