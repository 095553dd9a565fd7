"""How fast is secateur beside Torch-Pruning and `import torch`?

CPU seconds, user and system, of one thread; medians of repeats in which ours and the peer take turns. A row
of a whole process counts all of it, Python's start as well; byte code is kept on disk, as after an
installation, and one run is not counted. The other rows are measured in one process for each, after a warm-up
on a tiny model: the networks have random weights, and only the calls that are named are counted.

    python benchmarks/speed.py                    # all rows that are missing, then the page
    python benchmarks/speed.py --only "couple bert" --again
    python benchmarks/speed.py --page             # the page alone, from the results
"""

import argparse
import copy
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "speed.json"
PAGE = ROOT / "docs" / "benchmarks" / "speed.md"

STARTS = 7
"""Processes of each command line, beside as many that import PyTorch."""

REPEATS = 5
"""Measurements in one process."""

REPEATS_OF_STEPS = 2
"""Of choosing and of recovery, which take long."""

NETWORKS = ("mobilenet_v2", "convnext_tiny", "vit_b_16", "bert", "gpt2", "llama")
PRUNED = ("resnet18", "mobilenet_v2")
CRITERIA = ("jacobian", "fisher")
CALIBRATED = ("vgg16_bn", "resnet50", "vit")
STEPS = ("choosing", "absorb", "refit")
IMPORT_TORCH = ["-c", "import torch"]
PACKAGES = ("torch", "torchvision", "torch-pruning", "transformers")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        peer: What stands beside ours.
        aim: Ours at most, in terms of the peer's; empty for none.
        words: Of a whole process, what follows `python`; none where it is measured inside of one.
    """

    peer: str
    aim: str = ""
    words: tuple[str, ...] = ()


ROWS: dict[str, Row] = {
    "secateur --version": Row("import torch", "1.15 x", ("-m", "secateur", "--version")),
    "secateur --help": Row("import torch", "", ("-m", "secateur", "--help")),
    "secateur prune --help": Row("import torch", "", ("-m", "secateur", "prune", "--help")),
    "import secateur": Row("import torch", "1.10 x", ("-c", "import secateur")),
    "secateur.couple, imported": Row("import torch", "1.10 x", ("-c", "import secateur; secateur.couple")),
    "secateur.prune, imported": Row("import torch", "", ("-c", "import secateur; secateur.prune")),
    "first couple": Row("a later one", "+ 0.08 s"),
    **{f"capture and solve {name}": Row("Torch-Pruning: all groups", "0.5 x") for name in NETWORKS},
    **{f"couple {name}": Row("Torch-Pruning: all groups") for name in NETWORKS},
    **{f"prune {name}": Row("Torch-Pruning", "2 x") for name in PRUNED},
    **{f"prune {name} without proof": Row("Torch-Pruning", "0.7 x") for name in PRUNED},
    **{f"{name} resnet18": Row("forward + backward of the same data", "1.5 x") for name in CRITERIA},
    **{f"{step} {name}": Row("a dense pass") for step in STEPS for name in CALIBRATED},
}


def cpu_seconds(words: list[str]) -> float:
    """The CPU seconds of a process, one thread."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(
        [sys.executable, *words], env={**kept, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"python {' '.join(words)} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime


def starts(words: tuple[str, ...]) -> Iterator[tuple[float, float]]:
    """A process of ours and one of the peer's, in turns; the first pair is not counted."""
    for turn in range(STARTS + 1):
        pair = cpu_seconds([*words]), cpu_seconds(IMPORT_TORCH)
        if turn:
            yield pair


def timed(call: Callable[[], Any]) -> float:
    """The CPU seconds of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def network(name: str) -> tuple[Any, Any]:
    """A network with random weights, in eval mode, and its inputs."""
    import torch

    torch.manual_seed(0)
    if name in ("bert", "gpt2", "llama"):
        import transformers

        widths = {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
        }
        kinds = {"bert": {}, "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4}, "llama": {}}
        config = transformers.AutoConfig.for_model(
            name, **(kinds[name] or widths), vocab_size=64, use_cache=False, bos_token_id=1, eos_token_id=2
        )
        model = transformers.AutoModel.from_config(config)
        return model.eval(), {"input_ids": torch.randint(3, 64, (2, 12))}
    from torchvision.models import get_model

    return get_model(name, weights=None).eval(), torch.zeros(1, 3, 224, 224)


def their_groups(model: Any, inputs: Any) -> int:
    """Torch-Pruning's dependency graph, and all of its groups."""
    import torch_pruning

    graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=inputs)
    return len(list(graph.get_all_groups()))


def their_cut(model: Any, inputs: Any) -> None:
    """A cut of half of the channels by Torch-Pruning, in place, all but the classes."""
    import torch_pruning

    last = [module for module in model.modules() if getattr(module, "out_features", 0) == 1000]
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    torch_pruning.pruner.BasePruner(
        model, inputs, importance, pruning_ratio=0.5, global_pruning=True, ignored_layers=last
    ).step()


def measured(row: str) -> Iterator[tuple[float, float]]:
    """Ours and the peer's in this process, in turns; the first pair is a warm-up where there is a network."""
    import torch
    from torch import nn

    import secateur as sc

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    tiny = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.zeros(1, 4)
    _ = sc.couple  # what is imported by the name is a row of its own
    first = timed(lambda: sc.couple(*tiny))
    if row == "first couple":
        yield first, statistics.median(timed(lambda: sc.couple(*tiny)) for _ in range(9))
        return
    kind, name = row.removesuffix(" without proof").rsplit(" ", 1)
    if kind in CRITERIA:
        yield from criteria(kind, name)
        return
    if kind in STEPS:
        yield from passes(kind, name)
        return
    model, inputs = network(name)
    ours: dict[str, Callable[[], Any]] = {
        "couple": lambda: sc.couple(model, inputs),
        "capture and solve": lambda: _solved(model, inputs),
        "prune": lambda: sc.prune(model, inputs, ratio=0.5, check=not row.endswith("without proof")),
    }
    for turn in range(REPEATS + 1):
        theirs = copy.deepcopy(model)
        peer = their_cut if kind == "prune" else their_groups
        pair = timed(ours[kind]), timed(lambda theirs=theirs, peer=peer: peer(theirs, inputs))
        if turn:
            yield pair


def criteria(criterion: str, name: str) -> Iterator[tuple[float, float]]:
    """Scores by single samples, and a gradient by all parameters for each batch of the same data."""
    import torch
    from torch.nn import functional as F

    from secateur.capture import capture
    from secateur.capture.batches import Samples
    from secateur.coupling import couple_graph
    from secateur.score import score

    model, _ = network(name)
    data = [(torch.randn(32, 3, 64, 64), torch.randint(0, 1000, (32,))) for _ in range(4)]
    inputs = torch.zeros(1, 3, 64, 64)
    groups = couple_graph(capture(model, inputs))

    def peer() -> None:
        for images, labels in data:
            torch.autograd.grad(F.cross_entropy(model(images), labels), list(model.parameters()))

    for turn in range(REPEATS + 1):
        pair = timed(lambda: score(model, groups, criterion, data=Samples(data, model, inputs))), timed(peer)
        if turn:
            yield pair


def passes(step: str, name: str) -> Iterator[tuple[float, float]]:
    """Choosing half of the MACs, or a step of recovery, beside the dense model on the same data."""
    import torch
    from torch.nn import functional as F
    from torchvision.models import VisionTransformer, get_model

    import secateur as sc

    torch.manual_seed(0)
    model = VisionTransformer(64, 8, 12, 3, 192, 768) if name == "vit" else get_model(name, weights=None)
    if name == "vit":  # its head is made of zeros, so that no change would count
        torch.nn.init.normal_(model.heads.head.weight, std=0.02)
    model.eval()
    coarse, noise = torch.randn(48, 3, 8, 8), torch.randn(48, 3, 64, 64)
    data = list((F.interpolate(coarse, size=64, mode="bilinear") + 0.3 * noise).split(16))
    words: dict[str, Any] = {"macs": 0.5, "check": False}
    cut = sc.prune(model, data[0][:1], criterion="l2", **words)

    @torch.no_grad()
    def dense() -> None:
        for batch in data:
            model(batch)

    dense()
    for _ in range(REPEATS_OF_STEPS):
        peer = min(timed(dense) for _ in range(REPEATS))
        if step == "choosing":
            yield timed(lambda: sc.prune(model, data[0][:1], data=data, recover=[], **words)), peer
        else:
            yield timed(lambda: sc.recover(cut, data, [step])), peer


def _solved(model: Any, inputs: Any) -> Any:
    from secateur.capture import capture
    from secateur.coupling import couple_graph

    return couple_graph(capture(model, inputs))


def in_a_process(row: str) -> list[tuple[float, float]]:
    """The pairs that a fresh process measures; the first calls of five processes where they are asked for."""
    pairs: list[tuple[float, float]] = []
    for _ in range(REPEATS if row == "first couple" else 1):
        done = subprocess.run(
            [sys.executable, __file__, "--worker", row],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        pairs += json.loads(done.stdout.splitlines()[-1])
    return pairs


def machine() -> dict[str, Any]:
    """What the figures depend on; no host names, no paths."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpus": os.cpu_count(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def page(results: dict[str, Any]) -> str:
    """The table of what was measured."""
    facts = results["machine"]
    lines = [
        "# Speed",
        "",
        "Made by `scripts/generate` from what `python benchmarks/speed.py` measured.",
        "",
        "CPU seconds (user and system) of one thread, medians; ours and the peer took turns. Whole",
        f"processes count Python's start as well, {STARTS} of each. The other rows: {REPEATS} times in a",
        "process, on networks with random weights, after a warm-up on a tiny one. `capture and solve` is",
        "what Torch-Pruning does when it finds all groups; `couple` is `secateur.couple`, which also looks",
        "at the training mode and at other paths through the model. `prune` removes half of the channels,",
        "and proves the cut where nothing else is said; Torch-Pruning proves nothing. `choosing` is",
        "`prune(macs=0.5, data=)` without proof and recovery; `absorb` and `refit` recover a cut of half of",
        f"the MACs by `l2`, output errors before and after included, {REPEATS_OF_STEPS} times each. Their",
        "peer is the dense model on the same three batches of 16 images of 64 pixels (`vit`: 12 blocks of",
        "width 192, patches of 8).",
        "",
        "| what | ours | peer | | ours / peer | aim |",
        "|---|--:|---|--:|--:|--:|",
    ]
    for name, row in ROWS.items():
        if name in results["rows"]:
            ours, peer = (statistics.median(side) for side in zip(*results["rows"][name], strict=True))
            lines.append(f"| {name} | {ours:.3f} | {row.peer} | {peer:.3f} | {ours / peer:.2f} | {row.aim} |")
    lines += [
        "",
        "The networks of transformers have two layers of width 32 and read two sentences of twelve words;",
        "the others read one image of 224 pixels. Criteria score the groups of a resnet18 by four batches",
        "of 32 images of 64 pixels.",
        "",
        f"Machine: {facts['cpus']} CPUs ({facts['architecture']}), Python {facts['python']},",
        ", ".join(f"{name} {facts[name]}" for name in PACKAGES) + f"; {facts['date']}.",
        "It had other work to do, so seconds are more than on a quiet one; ratios are good to about 15 %.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--again", action="store_true", help="measure rows anew that have a result")
    parser.add_argument("--page", action="store_true", help="write the page alone")
    parser.add_argument("--worker", choices=ROWS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        print(json.dumps(list(measured(asked.worker))))
        return
    from secateur.write.atomic import atomic_write

    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"machine": machine(), "rows": {}}
    for name in asked.only if not asked.page else ():
        if name in results["rows"] and not asked.again:
            continue
        pairs = list(starts(ROWS[name].words)) if ROWS[name].words else in_a_process(name)
        results["rows"][name] = [[round(one, 4) for one in pair] for pair in pairs]
        results["machine"] = machine()
        atomic_write(RESULTS, (json.dumps(results, indent=1) + "\n").encode())
        ours, peer = (statistics.median(side) for side in zip(*pairs, strict=True))
        print(f"{name}: {ours:.3f} s, {ROWS[name].peer} {peer:.3f} s", file=sys.stderr)
    atomic_write(PAGE, page(results).encode())
    print(f"done: {len(results['rows'])} of {len(ROWS)} rows, {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
