"""Do the files of pruned networks compute the same in the programs that they are for, and how fast?

Twelve networks, dense and with half of their channels, through every format of `sc.export`. A cell has the
sizes of both files, the error of the pruned one as its own program read it back in a fresh process, and the
latency of both in that program; or the reason why there is no file. One process for each network; results are
written after each cell, and a stopped run goes on.

    python benchmarks/world.py                              # all that is missing
    python benchmarks/world.py --only bert llama --formats onnx
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from typing import Any

RESULTS = Path(__file__).parent / "results" / "world.json"
FORMATS = ("onnx", "pt2", "torchscript", "state-dict")
LIMIT = 1200
"""CPU seconds of a process: one network in all formats."""

RATIO = 0.5
REPEATS = 15


def _torchvision(name: str, side: int) -> Callable[[], Any]:
    def make() -> Any:
        import torch
        from torchvision.models import get_model

        return get_model(name, weights=None), torch.zeros(1, 3, side, side)

    return make


def _vit() -> Any:
    import timm
    import torch

    return timm.create_model("vit_tiny_patch16_224"), torch.zeros(1, 3, 224, 224)


def _yolo(name: str) -> Callable[[], Any]:
    def make() -> Any:
        import torch
        from ultralytics.nn.tasks import DetectionModel

        return DetectionModel(cfg=f"{name}.yaml", ch=3, verbose=False), torch.zeros(1, 3, 64, 64)

    return make


def _unet() -> Any:
    import torch
    from torch import nn

    def double(inputs: int, width: int) -> nn.Sequential:
        layers = (nn.Conv2d(at, width, 3, padding=1, bias=False) for at in (inputs, width))
        return nn.Sequential(*(part for conv in layers for part in (conv, nn.BatchNorm2d(width), nn.ReLU())))

    class UNet(nn.Module):
        """Ronneberger et al., MICCAI 2015, with padding and batch norm."""

        def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 256)) -> None:
            super().__init__()
            pairs = list(zip((3, *widths), widths, strict=False))
            self.down = nn.ModuleList(double(*pair) for pair in pairs)
            self.up = nn.ModuleList(nn.ConvTranspose2d(two, one, 2, 2) for one, two in pairs[1:])
            self.join = nn.ModuleList(double(2 * one, one) for one, _ in pairs[1:])
            self.head = nn.Conv2d(widths[0], 2, 1)

        def forward(self, x: Any) -> Any:
            kept = []
            for block in self.down:
                x = block(x if not kept else nn.functional.max_pool2d(x, 2))
                kept.append(x)
            for up, join, skip in zip(self.up[::-1], self.join[::-1], kept[-2::-1], strict=True):
                x = join(torch.cat([skip, up(x)], 1))
            return self.head(x)

    return UNet(), torch.zeros(1, 3, 64, 64)


def _tokens(length: int) -> Any:
    import torch

    return torch.randint(1, 1000, (1, length), generator=torch.Generator().manual_seed(0))


def _bert() -> Any:
    import torch
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
    tokens = _tokens(32)
    return BertModel(BertConfig(**sizes)), {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def _llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 352}
    config = LlamaConfig(vocab_size=1000, num_key_value_heads=2, **sizes)
    return LlamaForCausalLM(config), {"input_ids": _tokens(32), "use_cache": False}


def _whisper() -> Any:
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    both = {"layers": 2, "attention_heads": 4, "ffn_dim": 512}
    sizes = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in both.items()}
    config = WhisperConfig(
        vocab_size=1000, d_model=128, max_source_positions=100, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1, **sizes,
    )  # fmt: skip
    features = torch.randn(1, 80, 200, generator=torch.Generator().manual_seed(0))
    inputs = {"input_features": features, "decoder_input_ids": _tokens(16), "use_cache": False}
    return WhisperForConditionalGeneration(config), inputs


def _t5() -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=1000, d_model=128, d_kv=32, d_ff=512, num_layers=2, num_heads=4)
    inputs = {"input_ids": _tokens(32), "decoder_input_ids": _tokens(16), "use_cache": False}
    return T5ForConditionalGeneration(config), inputs


MODELS: dict[str, tuple[str, Callable[[], Any]]] = {
    "unet": ("3 to 2 channels, widths 32 to 256, 64x64", _unet),
    "bert": ("BertModel of 2 layers, width 128, 32 tokens", _bert),
    "vit": ("timm vit_tiny_patch16_224", _vit),
    "llama": ("LlamaForCausalLM of 4 layers, width 128, 4 heads and 2 of keys, 32 tokens, no cache", _llama),
    "t5": ("T5ForConditionalGeneration of 2 + 2 layers, width 128, 32 and 16 tokens, no cache", _t5),
    "whisper": ("WhisperForConditionalGeneration of 2 + 2 layers, width 128, 2 s, no cache", _whisper),
    "mobilenet_v3": ("torchvision mobilenet_v3_large, 224x224", _torchvision("mobilenet_v3_large", 224)),
    "yolov8n": ("ultralytics, 64x64", _yolo("yolov8n")),
    "yolo11n": ("ultralytics, 64x64", _yolo("yolo11n")),
    "resnet50": ("torchvision, 64x64", _torchvision("resnet50", 64)),
    "swin": ("torchvision swin_t, 64x64", _torchvision("swin_t", 64)),
    "convnext": ("torchvision convnext_tiny, 64x64", _torchvision("convnext_tiny", 64)),
}
"""What is built, in words and as a function, the cheapest first."""


def run_one(name: str, wanted: list[str]) -> None:
    """All formats of one network; prints each cell as a line of JSON."""
    import torch
    from zoo_runs.judge import randomise

    import secateur as sc
    from secateur.errors import SecateurError
    from secateur.exports.format import formats

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, example = MODELS[name][1]()
    randomise(model, 0)
    result = sc.prune(model.eval(), example, ratio=RATIO, check=False)
    print(json.dumps({"params": [result.before.params, result.after.params]}), flush=True)
    for format in wanted:
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder, f"{which}{formats[format].suffix}") for which in ("dense", "cut")]
            try:
                cut = sc.export(result, paths[1], format=format)
                dense = sc.export(model, paths[0], format=format, example_inputs=example)
            except SecateurError as error:
                print(json.dumps({"format": format, "refused": [error.what, *error.context][:4]}), flush=True)
                continue
            runs = [
                reopened(formats[format], path, made)
                for path, made in zip(paths, (model, result), strict=True)
            ]
            cell = {
                "format": format,
                "reader": cut.reader,
                "size_bytes": [dense.size_bytes, cut.size_bytes],
                "errors": dict(cut.errors),
                "latency_ms": in_turn(runs, example, is_numpy=format == "onnx"),
                "notes": list(cut.notes),
            }
            print(json.dumps(cell), flush=True)


def reopened(format: Any, path: Path, made: Any) -> Callable[..., Any]:
    """What runs a file, as the reader opens it."""
    from torch import nn

    from secateur.exports import ExportSubject, fresh, readers

    reader = Path(format.reader)
    reader = reader if reader.suffix else Path(readers.__file__).with_name(f"{reader}.py")
    result = None if isinstance(made, nn.Module) else made
    model = made if result is None else result.model
    subject = ExportSubject(model, None, result.plan if result else None, result)
    here = format.here(subject)
    return fresh.load(str(reader), str(path), format.about(subject) if here is None else here)[1]


def in_turn(runs: list[Callable[..., Any]], example: Any, *, is_numpy: bool) -> list[float]:
    """The median time of each in milliseconds, one thread; they are timed by turns."""
    import torch
    from torch.utils import _pytree as pytree

    from secateur.capture.inputs import as_call

    args, kwargs = as_call(example)
    if is_numpy:
        leaves = pytree.tree_leaves((args, kwargs))
        args, kwargs = tuple(one.numpy() for one in leaves if isinstance(one, torch.Tensor)), {}
    times: list[list[float]] = [[] for _ in runs]
    with torch.no_grad():
        for repeat in range(REPEATS + 2):
            for run, taken in zip(runs, times, strict=True):
                begin = time.perf_counter()
                run(*args, **kwargs)
                if repeat > 1:
                    taken.append(1000 * (time.perf_counter() - begin))
    return [statistics.median(taken) for taken in times]


def page(data: dict[str, Any]) -> str:
    """The page of the results."""
    lines = [
        "# Pruned networks in other programs",
        "",
        "Made by `scripts/generate` from `benchmarks/results/world.json`; `python benchmarks/world.py`",
        f"writes it. Each network has random weights and loses {RATIO:.0%} of its channels (`ratio`).",
        "The file is read back by its own program in a fresh process without secateur, at two sizes;",
        "the error is the largest difference from the pruned model over the spread of an output. Size",
        f"and latency are dense -> pruned, in that program: the median of {REPEATS} runs, one thread, both",
        "by turns, on a shared machine: good for the ratio of the two alone.",
        "",
        "| network | format | read back by | size | error | latency |",
        "|---|---|---|--:|--:|--:|",
    ]
    noted: dict[str, list[str]] = {}
    for name in MODELS:
        row = data["models"].get(name, {})
        for format in FORMATS:
            cell = row.get("cells", {}).get(format)
            if cell is None:
                lines.append(f"| {name} | {format} | not run yet | | | |")
            elif "refused" in cell:
                said = shorten("; ".join(cell["refused"]), 180, placeholder=" ...").replace("|", "\\|")
                lines.append(f"| {name} | {format} | refused: {said} | | | |")
            else:
                size = " -> ".join(f"{one / 1e6:.2f}" for one in cell["size_bytes"])
                took = " -> ".join(f"{one:.2f}" for one in cell["latency_ms"])
                error = f"{max(cell['errors'].values()):.1g}"
                lines.append(f"| {name} | {format} | {cell['reader']} | {size} MB | {error} | {took} ms |")
                for note in cell["notes"]:
                    noted.setdefault(note, []).append(f"{name} {format}")
    lines += ["", "Networks:", ""]
    for name, (what, _) in MODELS.items():
        params = data["models"].get(name, {}).get("params")
        left = f"; {params[0]:,} -> {params[1]:,} parameters" if params else ""
        lines.append(f"* {name}: {what}{left}")
    lines += ["", "Notes of the writers:", ""]
    lines += [f"* {note}: {', '.join(where)}" for note, where in noted.items()] or ["* none"]
    return "\n".join([*lines, ""])


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--one")
    asked = parser.parse_args()
    if asked.one:
        run_one(asked.one, asked.formats)
        return
    from secateur.write.atomic import atomic_write

    data = json.loads(asked.json.read_text()) if asked.json.exists() else {"models": {}}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "YOLO_OFFLINE": "true"}
    for name in asked.only:
        row = data["models"].setdefault(name, {"cells": {}})
        missing = [format for format in asked.formats if format not in row["cells"]]
        if not missing:
            continue
        command = [sys.executable, __file__, "--one", name, "--formats", *missing]
        limited = ["bash", "-c", f'ulimit -t {LIMIT}; exec "$@"', "--", *command]
        with subprocess.Popen(limited, stdout=subprocess.PIPE, text=True, env=environment) as child:
            for line in child.stdout or ():
                if not line.startswith('{"'):
                    continue
                said = json.loads(line)
                if "format" in said:
                    row["cells"][said.pop("format")] = said
                else:
                    row.update(said)
                atomic_write(asked.json, (json.dumps(data, indent=1) + "\n").encode())
                print(name, said, flush=True)


if __name__ == "__main__":
    main()
