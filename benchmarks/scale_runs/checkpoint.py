"""A checkpoint on the disk: made of random numbers, planned, streamed, compared; each in its own process."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import secateur as sc
from scale_runs.language import LLAMA_7B, build
from scale_runs.memory import forget_peak, peak_bytes, resident_bytes
from secateur.cut.slicing import slice_tensor
from secateur.write.shards import INDEX, StoredTensor, open_shards, write_shard
from secateur.write.stream import pack

SIZES = {
    **LLAMA_7B,
    "hidden_size": 2048,
    "intermediate_size": 5504,
    "num_hidden_layers": 22,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
}
SHARD_BYTES = 300_000_000
JOBS = ("make", "plan", "stream", "compare")


def run_job(job: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Run one job on `folder/whole`, `folder/plan.json` and `folder/half`; yields the start, then the job."""
    yield {}
    model = build(SIZES)[0] if job in ("make", "plan") else None
    work: dict[str, Callable[[], dict[str, Any]]] = {
        "make": lambda: _make(model, folder),
        "plan": lambda: _plan(model, folder),
        "stream": lambda: _stream(folder),
        "compare": lambda: _compare(folder),
    }
    forget_peak()
    before, start = resident_bytes(), time.monotonic()
    facts = work[job]()
    seconds = round(time.monotonic() - start, 2)
    yield {**facts, "seconds": seconds, "start_rss_bytes": before, "peak_rss_bytes": peak_bytes()}


def _make(model: Any, folder: Path) -> dict[str, Any]:
    """Write random bfloat16 values for every parameter, as a sharded checkpoint."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    tensors = [StoredTensor(name, "BF16", shape) for name, shape in shapes.items()]
    layout = pack(tensors, SHARD_BYTES)
    (folder / "whole").mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)

    def value(name: str) -> Tensor:
        return torch.randn(shapes[name], generator=generator, dtype=torch.bfloat16) / 45

    placed: dict[str, str] = {}
    for number, held in enumerate(layout, 1):
        file = f"model-{number:05}-of-{len(layout):05}.safetensors"
        write_shard(folder / "whole" / file, held, value, {"format": "pt"})
        placed.update({one.name: file for one in held})
    (folder / "whole" / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return {
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "size_bytes": sum(one.size_bytes for one in tensors),
        "files": len(layout),
        "largest_tensor_bytes": max(one.size_bytes for one in tensors),
    }


def _plan(model: Any, folder: Path) -> dict[str, Any]:
    tokens = {"input_ids": torch.zeros(1, 16, dtype=torch.long)}
    plan = sc.plan(model, tokens, weights=folder / "whole", ratio=0.3, scope="local")
    (folder / "plan.json").write_text(plan.to_json())
    return {"groups": len(plan.groups), "plan_bytes": (folder / "plan.json").stat().st_size}


def _stream(folder: Path) -> dict[str, Any]:
    plan = sc.Plan.from_json((folder / "plan.json").read_bytes())
    done = sc.stream(plan, folder / "whole", folder / "half", max_shard_bytes=SHARD_BYTES)
    return {"files": done.files, "sliced": done.sliced, "size_bytes": done.after_bytes}


def _compare(folder: Path) -> dict[str, Any]:
    """Compare every streamed tensor with the slice of the whole one, bit for bit."""
    plan = sc.Plan.from_json((folder / "plan.json").read_bytes())
    whole, half = open_shards(folder / "whole"), open_shards(folder / "half")
    equal = [torch.equal(half[name], slice_tensor(whole[name], plan.masks(name))) for name in whole]
    return {"tensors": len(equal), "equal": sum(equal)}
