"""How long do both libraries take to analyse networks of the zoo, most imports done before?

`zoo.py` counts what an analysis imports, PyTorch's compiler and sympy for some networks, as its processes
are fresh. Here one process imports everything, and forks for each network and library; a warm-up on a tiny
network comes first. What the imports made is frozen, so that no collection of Python's garbage looks through
it again, for either library. Every fourth network of each family, CPU seconds, written to
`results/zoo-times.json`.

    OMP_NUM_THREADS=1 python benchmarks/zoo_times.py
"""

import gc
import importlib
import json
import os
import sys
import warnings
from pathlib import Path

import torch
import torch._dynamo
import torch.fx.experimental.symbolic_shapes
from zoo_models import FAMILIES
from zoo_runs import LIBRARIES
from zoo_runs.worker import SETTINGS, limit_cpu, tiny

from secateur.write.atomic import atomic_write

RESULTS = Path("benchmarks/results/zoo-times.json")
STEP = 4
LIMIT = 20
"""CPU seconds of a process; one that takes longer has no figure."""


def seconds(library: str, family: str, name: str) -> float | None:
    """CPU seconds of the analysis in a process of its own; None if it fails."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
            limit_cpu(LIMIT)
            run = importlib.import_module(f"zoo_runs.{LIBRARIES[library]}").run
            for _ in run(*tiny()):
                pass
            model, inputs = importlib.import_module(f"zoo_models.{FAMILIES[family]}").make(name)
            told = (found.get("analyse_cpu_seconds") for found in run(model, inputs))
            os.write(writer, json.dumps(next(one for one in told if one is not None)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as held:
        said = held.read()
    os.waitpid(child, 0)
    return json.loads(said) if said else None


def main() -> None:
    """Measure."""
    os.environ.update(SETTINGS)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found: dict[str, dict[str, float | None]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    names = {family: importlib.import_module(f"zoo_models.{one}").NAMES for family, one in FAMILIES.items()}
    for module in LIBRARIES.values():
        importlib.import_module(f"zoo_runs.{module}")
    gc.collect()
    gc.freeze()
    for family in FAMILIES:
        for name in (one for one in names[family][::STEP] if f"{family}:{one}" not in found):
            row = {library: seconds(library, family, name) for library in LIBRARIES}
            found[f"{family}:{name}"] = row
            print(f"{family}:{name} {row}", file=sys.stderr, flush=True)
            atomic_write(RESULTS, (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
