"""One library on one model in a process of its own, with limits of CPU time and of memory.

Processes are forked from a server that has done the imports (`multiprocessing`'s "forkserver"), so that
each is fresh and none waits for them.
"""

import copy
import importlib
import math
import multiprocessing
import os
import resource
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import nn
from zoo_models import FAMILIES

from zoo_runs import LIBRARIES
from zoo_runs.judge import judge, randomise

SEED = 0
WALL_PER_CPU = 4
"""A worker may take this many times its CPU limit on the clock, for busy machines."""
PHASES = 3
"""Analyse, prune, judge: each has the whole CPU limit."""
SETTINGS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "YOLO_OFFLINE": "true"}

Say = Callable[[dict[str, Any]], None]


def limit_cpu(seconds: int) -> None:
    """Let this process end when it has used so many more CPU seconds."""
    until = int(time.process_time()) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (until, resource.RLIM_INFINITY))


def peak_bytes() -> int:
    """The largest resident size of this process since `forget_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the system tells no VmHWM")


def forget_peak() -> None:
    """Start a new peak of the resident size."""
    Path("/proc/self/clear_refs").write_text("5")


def tiny() -> tuple[nn.Module, torch.Tensor]:
    """A network for the warm-up."""
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1)]
    return nn.Sequential(*layers).eval(), torch.zeros(1, 3, 8, 8)


def work(full_name: str, library: str, limit: int, memory_gib: float, say: Say) -> None:
    """Run one library on one model in this process, and tell what is found as it is found."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    family, _, name = full_name.partition(":")
    run = importlib.import_module(f"zoo_runs.{LIBRARIES[library]}").run
    for _ in run(*tiny()):
        pass
    torch.manual_seed(SEED)
    model, example_inputs = importlib.import_module(f"zoo_models.{FAMILIES[family]}").make(name)
    randomise(model, SEED)
    original = copy.deepcopy(model)
    size = int(memory_gib * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    forget_peak()
    before = peak_bytes()
    try:
        pruned = None
        for found in _phases(run(model, example_inputs), limit):
            pruned = found.pop("model", None)
            say({**_finite(found), "peak_bytes": peak_bytes() - before})
        if pruned is not None:
            del model
            limit_cpu(limit)
            outcome = judge(original, pruned, example_inputs, SEED)
            say(
                _finite(
                    {
                        "judged": outcome.outcome,
                        "judged_error": outcome.relative_error,
                        "judged_why": outcome.why,
                    }
                )
            )
    except Exception as error:  # noqa: BLE001 - a library that fails is a result
        is_memory = isinstance(error, MemoryError) or "can't allocate memory" in str(error)
        say({"failure": "out of memory" if is_memory else "crashed", "error": _where(error)})


def _phases(running: Iterator[dict[str, Any]], limit: int) -> Iterator[dict[str, Any]]:
    while True:
        limit_cpu(limit)
        try:
            yield next(running)
        except StopIteration:
            return


def _finite(found: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no infinity: such errors become null."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in found.items()
    }


def _where(error: Exception) -> str:
    """The error in one line, with the innermost line of code outside of PyTorch."""
    line = f"{type(error).__name__}: {error}".partition("\n")[0]
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/torch/" not in frame.filename]
    return f"{line} at {'/'.join(Path(frames[-1].filename).parts[-2:])}:{frames[-1].lineno}"


def preload(family: str) -> None:
    """Set what the server of processes imports once; call it before the first `run_one`."""
    os.environ.update(SETTINGS)
    modules = [f"zoo_runs.{module}" for module in LIBRARIES.values()]
    multiprocessing.set_forkserver_preload([*modules, "torch_pruning", f"zoo_models.{FAMILIES[family]}"])


def _child(sender: Connection, name: str, library: str, limit: int, memory_gib: float) -> None:
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    work(name, library, limit, memory_gib, sender.send)
    sender.close()


def run_one(name: str, library: str, limit: int, memory_gib: float) -> dict[str, Any]:
    """Run one library on one model in a fresh process.

    Returns:
        What the worker found, and "failure" where it did not come to its end: "crashed", "out of memory",
        "time limit", with "error".
    """
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, name, library, limit, memory_gib))
    process.start()
    sender.close()
    found: dict[str, Any] = {}
    until = time.monotonic() + WALL_PER_CPU * PHASES * limit
    try:
        while receiver.poll(max(until - time.monotonic(), 0)):
            found |= receiver.recv()
        process.kill()
        found["failure"] = "time limit"
    except EOFError:
        process.join()
    if process.exitcode == -signal.SIGXCPU:
        found["failure"] = "time limit"
    elif process.exitcode and "failure" not in found:
        found |= {"failure": "crashed", "error": f"exit code {process.exitcode}"}
    return found
