"""What runs in the fresh process: a reader opens a file and computes its outputs.

    python -I fresh.py READER FILE INPUTS OUTPUTS ABOUT

INPUTS is a folder of .safetensors files, one for each run, whose tensors are numbered and whose header says
how they are nested into arguments. OUTPUTS gets a file of the same name for each, with the flattened tensors
of the output. The last line on stdout is the name and version of the program. secateur cannot be imported
here, so what is read back needs none; torch is not imported unless the reader does.
"""

import dataclasses
import json
import runpy
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any


def flatten(output: Any) -> Iterator[Any]:
    """The tensors of an output in a fixed order: dicts, tuples, dataclasses and plain objects are searched.

    Example:
        >>> import torch
        >>> [tuple(leaf.shape) for leaf in flatten({"b": torch.ones(1), "a": (None, 3, torch.ones(2))})]
        [(1,), (2,)]
    """
    from torch import Tensor, nn
    from torch.utils import _pytree as pytree

    if isinstance(output, Mapping):
        output = list(output.values())
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        output = [getattr(output, field.name) for field in dataclasses.fields(output)]
    for leaf in output if type(output) in (list, tuple) else pytree.tree_leaves(output):
        if isinstance(leaf, Tensor):
            yield leaf
        elif leaf is not output:
            yield from flatten(leaf)
        elif hasattr(leaf, "__dict__") and not isinstance(leaf, (nn.Module, type)) and not callable(leaf):
            yield from flatten(list(vars(leaf).values()))


def load(reader: str, file: str, about: Mapping[str, Any]) -> tuple[str, Callable[..., Any]]:
    """Let a reader open a file: the program's name and version, and what runs the file."""
    opened: tuple[str, Callable[..., Any]] = runpy.run_path(reader)["load"](file, **about)
    return opened


def _run_torch(run: Callable[..., Any], inputs: Path, outputs: Path) -> None:
    import torch
    from safetensors.torch import safe_open, save_file
    from torch.utils import _pytree as pytree

    with safe_open(inputs, "pt") as file:
        header = file.metadata()
        tensors = iter([file.get_tensor(name) for name in sorted(file.keys())])
    leaves = [next(tensors) if leaf == "tensor" else leaf[0] for leaf in json.loads(header["leaves"])]
    args, kwargs = pytree.tree_unflatten(leaves, pytree.treespec_loads(header["form"]))
    with torch.no_grad():
        found = list(flatten(run(*args, **kwargs)))
    save_file({f"{at:06}": one.detach().clone().contiguous() for at, one in enumerate(found)}, outputs)


def _run_numpy(run: Callable[..., Any], inputs: Path, outputs: Path) -> None:
    import numpy as np
    from safetensors.numpy import load_file, save_file

    given = load_file(inputs)
    found = run(*(given[name] for name in sorted(given)))
    save_file({f"{at:06}": np.ascontiguousarray(one) for at, one in enumerate(found)}, outputs)


def main(reader: str, file: str, inputs: str, outputs: str, about: str) -> None:
    """Run a file on every input there is."""
    sys.modules["secateur"] = None  # type: ignore[assignment]
    program, run = load(reader, file, json.loads(about))
    compute = _run_torch if "torch" in sys.modules else _run_numpy
    for one in sorted(Path(inputs).iterdir()):
        compute(run, one, Path(outputs, one.name))
    sys.stdout.write(f"\n{program}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
