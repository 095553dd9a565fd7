"""Does Ultralytics take its networks when they are pruned: open, validate, train on and export them?

Each network runs in two processes: the first prunes it, writes the `.pt` and trains an epoch with the trainer
that keeps cuts; in the second secateur cannot be imported. Results are written after each; a stopped run
goes on.

    python benchmarks/ultralytics_table.py
    python benchmarks/ultralytics_table.py --only yolo11n-seg yolo26n
    python benchmarks/ultralytics_table.py --also openvino ncnn --only yolo11n   # if installed
    scripts/generate                                      # the table of docs/ultralytics.md
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "ultralytics.json"
NAMES = (
    "yolov8n",
    "yolov8n-seg",
    "yolov8n-pose",
    "yolov8n-obb",
    "yolov8n-cls",
    "yolov9t",
    "yolov10n",
    "yolo11n",
    "yolo11n-seg",
    "yolo11n-pose",
    "yolo11n-obb",
    "yolo11n-cls",
    "yolo12n",
    "yolo26n",
    "yolo26n-seg",
    "yolo26n-pose",
    "yolo26n-obb",
    "yolov8n-rtdetr",
    "rtdetr-resnet50",
)
SIDE = 64
RATIO = 0.3
TASKS = {"-seg": "segment", "-pose": "pose", "-obb": "obb", "-cls": "classify"}
TOLERANCE = 1e-3
"""Of the spread of an output."""


def error(got: Any, wanted: Any) -> float:
    """The largest difference over the spread of what is wanted."""
    return float((got - wanted).abs().max() / (wanted.max() - wanted.min()))


def first(output: Any) -> Any:
    """The predictions among what a network returns; masks and raw maps come behind."""
    while isinstance(output, (tuple, list)):
        output = output[0]
    return output


def parameters(model: Any) -> int:
    """How many numbers a network has."""
    return sum(one.numel() for one in model.parameters())


def training(data: Path, folder: Path) -> dict[str, Any]:
    """What every training is told."""
    return {
        "data": str(data),
        "imgsz": SIDE,
        "batch": 4,
        "device": "cpu",
        "workers": 0,
        "project": str(folder / "runs"),
        "plots": False,
        "verbose": False,
    }


def give_statistics(model: Any) -> None:
    """Let batch norms know their inputs: at their defaults signals die out and heads say their biases."""
    import torch

    norms = [one for one in model.modules() if isinstance(one, torch.nn.BatchNorm2d)]
    moments = [one.momentum for one in norms]
    for one in norms:
        one.momentum = None  # the plain average
        torch.nn.init.uniform_(one.weight, 0.5, 1.5)
        torch.nn.init.normal_(one.bias, 0.0, 0.2)
    model.train()
    with torch.no_grad():
        for _ in range(2):
            model.predict(torch.rand(4, 3, SIDE, SIDE))
    for one, moment in zip(norms, moments, strict=True):
        one.momentum = moment
    model.eval()


def with_secateur(name: str, folder: Path) -> dict[str, Any]:
    """Prune, write and train a network."""
    import torch
    import ultralytics
    from ultralytics_scenes import CLASSES, write_scenes

    import secateur as sc
    from secateur.domains.ultralytics import trainer
    from secateur.domains.ultralytics.trainers import set_classes

    torch.manual_seed(0)
    task = next((task for mark, task in TASKS.items() if name.endswith(mark)), "detect")
    data = write_scenes(folder / "data", task, side=SIDE)
    kind = ultralytics.RTDETR if "rtdetr" in name else ultralytics.YOLO
    yolo = kind(f"{name}.yaml")
    set_classes(yolo.model, dict(enumerate(CLASSES)))
    give_statistics(yolo.model)
    began = time.process_time()
    result = sc.prune(yolo, torch.rand(1, 3, SIDE, SIDE), ratio=RATIO, corrections=False)
    row: dict[str, Any] = {
        "task": task,
        "before": parameters(yolo.model),
        "after": parameters(result.model),
        "verdict": "exact" if result.verdict.exact else "renormalised",
        "error": result.verdict.relative_error,
        "prune_s": round(time.process_time() - began, 1),
    }
    sc.export(
        yolo.model, folder / "whole.pt", format="ultralytics", example_inputs=torch.rand(1, 3, SIDE, SIDE)
    )
    path = sc.export(result, folder / "half.pt", format="ultralytics").path
    x = torch.rand(2, 3, SIDE, SIDE + 32)
    with torch.no_grad():
        y = result.model.eval()(x)
    torch.save((x, first(y)), folder / "reference.pt")
    yolo = ultralytics.YOLO(path)
    began = time.process_time()
    yolo.train(trainer=trainer(yolo), epochs=1, **training(data, folder))
    row |= {"train_s": round(time.process_time() - began, 1), "trained": parameters(yolo.model)}
    row["last"], row["data"] = str(yolo.trainer.last), str(data)
    return row


def without_secateur(folder: Path, formats: list[str], row: dict[str, Any]) -> dict[str, Any]:
    """Open, validate, predict and export in a process that has no secateur."""
    sys.modules["secateur"] = None  # type: ignore[assignment]
    import torch
    import ultralytics
    from ultralytics.nn.autobackend import AutoBackend

    x, wanted = torch.load(folder / "reference.pt")
    opened = ultralytics.YOLO(folder / "half.pt")
    with torch.no_grad():
        got = opened.model(x)
    row["opened"] = error(first(got), wanted)
    told = {"imgsz": SIDE, "device": "cpu"}
    metrics = opened.val(data=row["data"], plots=False, workers=0, verbose=False, **told)
    row["validated"] = bool(metrics.results_dict)
    trained = ultralytics.YOLO(row["last"])
    row["predicted"] = len(trained.predict(x[:1, :, :, :SIDE], verbose=False, **told)) == 1
    row["reopened"] = parameters(trained.model)
    images = x[:1, :, :, :SIDE]
    for name in formats:
        for file in ("half", "whole") if name != "onnx" else ("half",):
            plain = ultralytics.YOLO(folder / f"{file}.pt").model
            try:
                with torch.no_grad():
                    wanted = first(plain(images))
                made = ultralytics.YOLO(folder / f"{file}.pt").export(format=name, **told)
                ran = AutoBackend(made, device=torch.device("cpu"))(images)
                row[name if file == "half" else f"{name} of the whole"] = error(first(ran), wanted)
            except Exception as failure:  # noqa: BLE001 - the table says it
                row[name] = f"{type(failure).__name__}: {str(failure).splitlines()[0][:120]}"
    return row


def child(words: list[str]) -> None:
    """One network, in a process of its own; the last line on stdout is what is known of it."""
    warnings.simplefilter("ignore")
    logging.getLogger("ultralytics").setLevel(logging.CRITICAL)
    name, folder, formats, row = words[0], Path(words[1]), words[2].split(","), json.loads(words[3])
    found = without_secateur(folder, formats, row) if row else with_secateur(name, folder)
    print(f"\n{json.dumps(found)}")


def run(name: str, formats: list[str], limit: int) -> dict[str, Any]:
    """Both processes of a network."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "YOLO_CONFIG_DIR": folder, "YOLO_OFFLINE": "true"}
        row: dict[str, Any] = {}
        for _ in range(2):
            words = [sys.executable, __file__, "--child", name, folder, ",".join(formats), json.dumps(row)]
            try:
                done = subprocess.run(
                    words, capture_output=True, text=True, timeout=limit, env=environment, check=False
                )
            except subprocess.TimeoutExpired:
                return {**row, "failed": f"took over {limit} s"}
            if done.returncode:
                return {**row, "failed": done.stderr.strip().splitlines()[-1][:200]}
            row = json.loads(done.stdout.strip().splitlines()[-1])
    return {key: held for key, held in row.items() if key not in ("last", "data")}


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", default=NAMES)
    parser.add_argument(
        "--also", nargs="*", default=[], help="formats beside ONNX: openvino, ncnn, torchscript"
    )
    parser.add_argument("--to", type=Path, default=RESULTS)
    parser.add_argument("--again", action="store_true", help="also what the results have")
    parser.add_argument("--limit", type=int, default=900, help="seconds of a process")
    asked = parser.parse_args()
    known = json.loads(asked.to.read_text()) if asked.to.exists() else {"models": {}}
    for name in asked.only:
        if name in known["models"] and not asked.again:
            continue
        row = run(name, ["onnx", *asked.also], asked.limit)
        print(name, row, flush=True)
        known["models"][name] = row
        known |= {"side": SIDE, "ratio": RATIO, "versions": versions()}
        asked.to.write_text(json.dumps(known, indent=1) + "\n")


def versions() -> dict[str, str]:
    """What it was run with."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "ultralytics", "onnxruntime")}


def table(known: dict[str, Any]) -> str:
    """The results as a table in Markdown."""
    lines = [
        "| network | task | parameters | left | proof | opened by `YOLO` | an epoch on | ONNX | others |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in known["models"].items():
        if "failed" in row:
            lines.append(f"| {name} | {row.get('task', '')} | | | {row['failed']} | | | | |")
            continue
        kept = row["after"] == row["trained"] == row["reopened"]
        others = [
            f"{one} {_said(row[one], row.get(f'{one} of the whole', 0.0))}"
            for one in ("openvino", "ncnn", "torchscript")
            if one in row
        ]
        lines.append(
            f"| {name} | {row['task']} | {row['before']:,} | {row['after'] / row['before']:.1%} "
            f"| {row['verdict']}, {row['error']:.0e} | {_said(row['opened'])} "
            f"| {'cut' if kept else 'NOT cut'}: {row['trained']:,} | {_said(row['onnx'])} "
            f"| {', '.join(others)} |"
        )
    versions = ", ".join(f"{name} {one}" for name, one in known["versions"].items())
    note = (
        f"`ratio={known['ratio']}, corrections=False`, random weights, two classes, images of "
        f"{known['side']} pixels, {versions}.\nErrors are the largest difference over the spread of the "
        "output. All files were validated and\npredicted with, too."
    )
    return "\n".join([note, "", *lines, ""])


def _said(found: float | str, whole: float = 0.0) -> str:
    """An error; where it is larger than rounding, beside that of the whole network."""
    if isinstance(found, str):
        return found.replace("|", "/")
    if found < TOLERANCE:
        return f"{found:.0e}"
    return f"{found:.0e} (whole: {whole:.0e})" if found < 3 * whole else f"WRONG: {found:.0e}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    else:
        main()
