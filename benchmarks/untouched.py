"""Does any verb change a user's model or process? The snapshot of the safety tests around verbs over the zoo.

Each model is made with random parameters; everything that its modules hold (by content, by place and by
identity), what its code holds, and what PyTorch, NumPy and Python keep for the process is compared before
and after couple, prune by size and by activations, recover and drop_blocks. A verb may refuse a model; it may
not change it. Results are written after each model: a stopped run goes on with `--resume`.

    python benchmarks/untouched.py --family torchvision --resume
    python benchmarks/untouched.py --family timm transformers --every 6 --resume
    python benchmarks/untouched.py --only "*vit*"
"""

import argparse
import hashlib
import importlib
import json
import os
import signal
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # which PyTorch imports at some first use; sympy adds a filter of warnings then
from torch import nn
from zoo import names_of
from zoo_models import FAMILIES
from zoo_runs.page import machine
from zoo_runs.worker import SEED, SETTINGS

import secateur as sc
from secateur.errors import SecateurError
from secateur.write.atomic import atomic_write

RESULTS = Path("benchmarks/results/untouched.json")


class OutOfTimeError(Exception):
    """A verb took longer than it may."""


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise when so many seconds are over."""

    def stop(*_: Any) -> None:
        raise OutOfTimeError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def digest(value: Any, depth: int = 0) -> Any:
    """A value as something small that compares: tensors by content and place, modules by identity."""
    if isinstance(value, torch.Tensor):
        flat = value.detach().cpu().contiguous().view(-1) if not value.is_meta else torch.empty(0)
        content = hashlib.blake2b(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
        place = (id(value), value.data_ptr(), value._version, str(value.device), value.dtype, value.shape)
        return (*place, value.requires_grad, content.hexdigest(), digest(value.grad), *sorted(vars(value)))
    if isinstance(value, (nn.Module, type, types.FunctionType, types.ModuleType)) or depth > 4:
        return id(value)
    if isinstance(value, dict):
        return tuple((str(key), digest(held, depth + 1)) for key, held in dict.items(value))
    if isinstance(value, (list, tuple)):
        return tuple(digest(held, depth + 1) for held in value)
    if isinstance(value, (bool, int, float, str, type(None), torch.dtype)):
        return value
    if hasattr(value, "__dict__") and not callable(value):
        return id(value), digest(vars(value), depth + 1)
    return id(value)


def of_model(model: nn.Module) -> dict[str, Any]:
    """What every module holds, and what its class does."""
    return {
        name or "model": (type(module), digest(vars(module)), digest(_data(vars(type(module)))))
        for name, module in model.named_modules(remove_duplicate=False)
    }


def of_code(model: nn.Module) -> dict[str, Any]:
    """What the files hold in which the classes of the modules are written."""
    files = {kind.__module__ for module in model.modules() for kind in type(module).__mro__}
    return {file: digest(_data(vars(sys.modules[file]))) for file in sorted(files) if _is_foreign(file)}


def _is_foreign(file: str) -> bool:
    return file.partition(".")[0] not in ("torch", "builtins", "abc", "typing", "collections")


def _data(held: Any) -> dict[str, Any]:
    return {
        name: value
        for name, value in held.items()
        if not name.startswith("__") and isinstance(value, (dict, list, set, int, float, str, torch.Tensor))
    }


def tests_folder() -> None:
    """The safety tests' snapshot of the process is used here, too."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))


def verbs(example_inputs: Any) -> dict[str, Callable[[nn.Module], Any]]:
    """What is done with each model; the names of the pairs are those of the results."""
    made: list[sc.Result] = []

    def prune(model: nn.Module, **options: Any) -> None:
        made[:] = [sc.prune(model, example_inputs, ratio=0.3, **options)]

    def recover(_: nn.Module) -> None:
        if made:
            sc.recover(made[0], [example_inputs], steps=["absorb", "refit"])

    return {
        "couple": lambda model: sc.couple(model, example_inputs),
        "prune": prune,
        "prune by activations": lambda model: prune(
            model, criterion="activation-mean", data=[example_inputs], check=False
        ),
        "recover": recover,
        "drop": lambda model: sc.drop_blocks(model, example_inputs, count=1, check=False),
    }


def run(full_name: str, limit: int) -> dict[str, Any]:
    """All verbs on one model: what each changed, empty for nothing, and what it refused."""
    import snapshot

    family, _, name = full_name.partition(":")
    torch.manual_seed(SEED)
    model, example_inputs = importlib.import_module(f"zoo_models.{FAMILIES[family]}").make(name)
    found: dict[str, Any] = {}
    for verb, call in verbs(example_inputs).items():
        before = of_model(model), of_code(model), snapshot.of_process()
        word, started = "done", time.process_time()
        try:
            with limited(limit):
                call(model)
        except SecateurError as error:
            word = f"refused: {error}".partition("\n")[0][:160]
        except OutOfTimeError:
            word = "out of time"
        after = of_model(model), of_code(model), snapshot.of_process()
        pairs = zip(before, after, strict=True)
        changed = [
            key for one, two in pairs for key in one.keys() | two.keys() if one.get(key) != two.get(key)
        ]
        seconds = round(time.process_time() - started, 2)
        found[verb] = {"changed": sorted(changed), "word": word, "cpu_seconds": seconds}
    return found


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=["torchvision"])
    parser.add_argument("--only", default="*", metavar="PATTERN", help="names, such as 'resnet*'")
    parser.add_argument("--every", type=int, default=1, help="take one of so many models")
    parser.add_argument("--limit", type=int, default=60, help="seconds of each verb")
    parser.add_argument("--resume", action="store_true", help="leave out what has a result")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    os.environ.update(SETTINGS)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    tests_folder()
    known = json.loads(options.json.read_text()) if options.json.exists() else {}
    results: dict[str, Any] = {
        "command": "python benchmarks/untouched.py",
        "machine": machine(),
        "models": known.get("models", {}),
    }
    for name in names_of(options.family, options.only)[:: options.every]:
        if options.resume and name in results["models"]:
            continue
        results["models"][name] = run(name, options.limit)
        atomic_write(options.json, (json.dumps(results, indent=1) + "\n").encode())
        changed = sum(bool(one["changed"]) for one in results["models"][name].values())
        print(f"{name}: {changed} verbs changed something", file=sys.stderr, flush=True)
    rows = [one for verbs_ in results["models"].values() for one in verbs_.values()]
    changes = sum(bool(one["changed"]) for one in rows)
    print(f"{len(results['models'])} models, {len(rows)} calls, {changes} changed something")


if __name__ == "__main__":
    main()
