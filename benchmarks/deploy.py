"""Does what traces, exports, compiles or checkpoints a network take the cut one, too, with the same numbers?

Each network of the zoo runs in a process of its own. A tool counts where it takes the uncut network and gives
its numbers; then the cut one is tried. Results are written after each network; a stopped run goes on.

    python benchmarks/deploy.py                       # the networks whose code a cut corrects
    python benchmarks/deploy.py --only "timm:*" --tools trace export
    python benchmarks/deploy.py --page                # write docs/deploy.md from the results
"""

import argparse
import copy
import fnmatch
import importlib
import json
import multiprocessing
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

RESULTS = Path("benchmarks/results/deploy.json")
PAGE = Path("docs/deploy.md")
ZOO = Path("benchmarks/results/zoo.json")
LIMIT = 300
"""CPU seconds of a process: one network with all tools."""

TOLERANCE = 1e-3
"""Of the largest number of an output, in float32."""


def leaves(output: Any) -> list[Any]:
    """The floating-point tensors of an output."""
    import torch
    from torch.utils import _pytree as pytree

    if hasattr(output, "to_tuple"):
        output = output.to_tuple()
    return [
        leaf
        for leaf in pytree.tree_leaves(output)
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
    ]


def call(model: Any, inputs: Any) -> list[Any]:
    """Run a model without gradients."""
    import torch

    with torch.no_grad():
        return leaves(model(**inputs) if isinstance(inputs, dict) else model(*inputs))


def trace(model: Any, inputs: Any) -> Callable[[Any], Any]:
    """`torch.jit.trace`."""
    import torch

    example = {"example_kwarg_inputs": inputs} if isinstance(inputs, dict) else {"example_inputs": inputs}
    traced = torch.jit.trace(model, **example, strict=False, check_trace=False)
    return lambda given: call(traced, given)


def scripted(model: Any, inputs: Any) -> Callable[[Any], Any]:
    """`torch.jit.script`."""
    import torch

    made = torch.jit.script(model)
    return lambda given: call(made, given)


def export(model: Any, inputs: Any) -> Callable[[Any], Any]:
    """`torch.export` of the example's sizes."""
    import torch

    args, kwargs = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
    made = torch.export.export(model, args, kwargs, strict=False).module()
    return lambda given: call(made, given)


def dynamic(model: Any, inputs: Any) -> Callable[[Any], Any]:
    """`torch.export` with any number of samples; run with one more than the example has."""
    import torch
    from torch.utils import _pytree as pytree

    args, kwargs = ((), more(inputs)) if isinstance(inputs, dict) else (more(inputs), {})
    batch = torch.export.Dim.AUTO
    shapes = pytree.tree_map(
        lambda leaf: {0: batch} if isinstance(leaf, torch.Tensor) and leaf.dim() else None, inputs
    )
    made = torch.export.export(
        model,
        args,
        kwargs,
        dynamic_shapes=shapes if isinstance(inputs, dict) else tuple(shapes),
        strict=False,
    ).module()
    return lambda given: call(made, given)


def more(inputs: Any) -> Any:
    """Inputs with one more sample."""
    import torch
    from torch.utils import _pytree as pytree

    return pytree.tree_map(
        lambda leaf: torch.cat([leaf, leaf[:1]]) if isinstance(leaf, torch.Tensor) and leaf.dim() else leaf,
        inputs,
    )


def symbolic(model: Any, inputs: Any) -> Callable[[Any], Any]:
    """`torch.fx.symbolic_trace`."""
    import torch

    if isinstance(inputs, dict):
        raise TypeError("keyword inputs")
    made = torch.fx.symbolic_trace(model)
    return lambda given: call(made, given)


def compiled(model: Any, inputs: Any) -> Callable[[Any], Any]:
    """`torch.compile` with the backend "aot_eager"."""
    import torch

    torch._dynamo.reset()
    made = torch.compile(model, backend="aot_eager")
    return lambda given: call(made, given)


def onnx(model: Any, inputs: Any) -> Callable[[Any], Any]:
    """`torch.onnx.export`, run by onnxruntime."""
    import onnxruntime
    import torch

    args, kwargs = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
    folder = tempfile.mkdtemp()
    torch.onnx.export(model, args, f"{folder}/m.onnx", kwargs=kwargs, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(f"{folder}/m.onnx", providers=["CPUExecutionProvider"])

    def run(given: Any) -> Any:
        tensors = [*(given.values() if isinstance(given, dict) else given)]
        feeds = {one.name: tensor.numpy() for one, tensor in zip(session.get_inputs(), tensors, strict=True)}
        found = [torch.from_numpy(one) for one in session.run(None, feeds)]
        return [one for one in found if one.is_floating_point()]

    return run


def checkpointed(model: Any, inputs: Any) -> Callable[[Any], Any]:
    """Gradients with each block of the model under `torch.utils.checkpoint`."""
    import torch
    from torch.utils.checkpoint import checkpoint

    for module in model.modules():
        for child in module.children():
            if not list(child.children()) or isinstance(child, (torch.nn.ModuleList, torch.nn.ModuleDict)):
                continue
            if type(child).forward is not torch.nn.Sequential.forward:
                forward = child.forward
                child.forward = lambda *args, held=forward, **kwargs: checkpoint(
                    held, *args, use_reentrant=False, **kwargs
                )
    return lambda given: gradients(model, given)


def gradients(model: Any, inputs: Any) -> list[Any]:
    """The gradients of the sum of squares of the outputs."""
    model.zero_grad()
    output = leaves(model(**inputs) if isinstance(inputs, dict) else model(*inputs))
    sum(one.square().mean() for one in output if one.requires_grad).backward()
    return [one.grad.clone() for one in model.parameters() if one.grad is not None]


TOOLS: dict[str, Callable[[Any, Any], Callable[[Any], Any]]] = {
    "trace": trace,
    "script": scripted,
    "export": export,
    "dynamic": dynamic,
    "fx": symbolic,
    "compile": compiled,
    "onnx": onnx,
    "checkpoint": checkpointed,
}


def try_tool(name: str, model: Any, inputs: Any) -> str:
    """Empty if a tool takes a model and gives its numbers; else why not."""
    try:
        given = more(inputs) if name == "dynamic" else inputs
        expected = (gradients if name == "checkpoint" else call)(copy.deepcopy(model), copy.deepcopy(given))
        run = TOOLS[name](copy.deepcopy(model), copy.deepcopy(inputs))
        found = run(copy.deepcopy(given))
    except Exception as error:  # noqa: BLE001 - foreign tools and models raise anything
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[
            :200
        ]
    if len(expected) != len(found) or any(
        one.shape != two.shape for one, two in zip(expected, found, strict=True)
    ):
        return "other outputs"
    worst = max(
        (
            float((one - two).abs().max() / (one.abs().max() + 1e-12))
            for one, two in zip(expected, found, strict=True)
            if one.numel()
        ),
        default=0.0,
    )
    return "" if worst <= TOLERANCE else f"other numbers: {worst:.1e}"


def run_one(full_name: str, tools: list[str], say: Callable[[dict[str, Any]], None]) -> None:
    """All tools on one network, uncut and cut; says what is known after each."""
    import torch
    from zoo_models import FAMILIES
    from zoo_runs.judge import randomise

    import secateur as sc

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    family, _, name = full_name.partition(":")
    torch.manual_seed(0)
    model, inputs = importlib.import_module(f"zoo_models.{FAMILIES[family]}").make(name)
    randomise(model, 0)
    inputs = inputs if isinstance(inputs, (dict, tuple)) else (inputs,)
    cut = sc.prune(model, inputs, ratio=0.5, scope="global", check=False, seed=0).model.eval()
    for tool in tools:
        before = try_tool(tool, model.eval(), inputs)
        say({tool: {"uncut": before, "cut": try_tool(tool, cut, inputs) if not before else None}})


def in_child(full_name: str, tools: list[str]) -> dict[str, Any]:
    """All tools on one network in a fresh process, forked from a server that has done the imports."""
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, full_name, tools))
    process.start()
    sender.close()
    found: dict[str, Any] = {}
    with suppress(EOFError):
        while True:
            found |= receiver.recv()
    process.join()
    why = found.pop("error", f"stopped with exit code {process.exitcode}")
    return {tool: found.get(tool, {"uncut": f"no result: {why}"[:160], "cut": None}) for tool in tools}


def _child(sender: Any, full_name: str, tools: list[str]) -> None:
    from zoo_runs.worker import limit_cpu

    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    limit_cpu(LIMIT)
    try:
        run_one(full_name, tools, sender.send)
    except Exception as error:  # noqa: BLE001 - a network that cannot be made or cut is a result
        sender.send({"error": f"{type(error).__name__}: {error}"})


def corrected() -> list[str]:
    """The networks of the zoo whose code a cut corrects."""
    models = json.loads(ZOO.read_text())["models"]
    return [name for name, row in models.items() if row["secateur"].get("corrections")]


def page(data: dict[str, Any]) -> str:
    """The page of the results."""
    lines = [
        "# What takes the cut network",
        "",
        "Written by `python benchmarks/deploy.py --page` from `benchmarks/results/deploy.json`. Networks of",
        "the zoo whose code a cut corrects: a tool counts where it takes the uncut network and gives its",
        "numbers (within 1e-3 of the largest, float32); *cut* says for how many of those it takes the one",
        "with half of its channels.",
        "",
        "| tool | what | uncut | cut, before (4e2a373) | cut |",
        "|---|---|--:|--:|--:|",
    ]
    fell = []
    for tool, run in TOOLS.items():
        rows = {name: row[tool] for name, row in data["models"].items() if tool in row}
        if not rows:
            continue
        taken = [name for name, row in rows.items() if not row["uncut"]]
        right = [name for name in taken if rows[name]["cut"] == ""]
        old = {
            name: row[tool] for name, row in data.get("before", {}).items() if tool in row and name in taken
        }
        before = f"{sum(row['cut'] == '' for row in old.values())} of {len(old)}"
        what = (run.__doc__ or "").splitlines()[0]
        lines.append(f"| {tool} | {what} | {len(taken)} of {len(rows)} | {before} | {len(right)} |")
        fell += [f"* {name}, {tool}: {rows[name]['cut']}" for name in taken if name not in right]
    return "\n".join(
        [*lines, "", "Where the uncut one is taken and the cut one is not:", "", *(fell or ["* none"]), ""]
    )


def main() -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*")
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=list(TOOLS))
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--one")
    parser.add_argument("--page", action="store_true")
    asked = parser.parse_args()
    if asked.one:
        run_one(asked.one, asked.tools, lambda found: print(json.dumps(found), flush=True))
        return
    from zoo_models import FAMILIES

    from secateur.write.atomic import atomic_write

    data = json.loads(asked.json.read_text()) if asked.json.exists() else {"models": {}}
    names = [] if asked.page else [name for name in corrected() if fnmatch.fnmatch(name, asked.only)]
    os.environ.update({"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "YOLO_OFFLINE": "true"})
    families = {FAMILIES[name.partition(":")[0]] for name in names}
    imports = ["secateur", "torch.onnx", *(f"zoo_models.{family}" for family in sorted(families))]
    multiprocessing.set_forkserver_preload(imports)
    for name in names:
        known = data["models"].get(name, {})
        missing = [tool for tool in asked.tools if tool not in known]
        if not missing:
            continue
        data["models"].setdefault(name, known).update(in_child(name, missing))
        atomic_write(asked.json, (json.dumps(data, indent=1) + "\n").encode())
        print(
            name,
            {tool: known[tool]["cut"] if not known[tool]["uncut"] else "-" for tool in missing},
            flush=True,
        )
    if asked.json == RESULTS:
        atomic_write(PAGE, page(data).encode())


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
