"""Language models without values: how long the stages take, and how much memory, on the meta device."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

import secateur as sc
from scale_runs.memory import peak_bytes
from secateur.capture import capture
from secateur.coupling import couple_graph

PHASES = ("start", "build", "capture", "couple", "plan")

LLAMA_7B = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
}
LLAMA_3_8B = {
    **LLAMA_7B,
    "vocab_size": 128256,
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
}
NARROW = {
    **LLAMA_7B,
    "vocab_size": 1000,
    "hidden_size": 256,
    "intermediate_size": 688,
}
MODELS = {
    "llama-7b": LLAMA_7B,
    "llama-3-8b (8 key heads)": LLAMA_3_8B,
    "llama-7b, 16 times narrower": NARROW,
}


def build(sizes: dict[str, int], device: str = "meta") -> tuple[nn.Module, dict[str, Tensor]]:
    """A Llama of transformers and 16 token ids; without a cache, whose keys and values would be outputs."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device(device):
        model = LlamaForCausalLM(LlamaConfig(**sizes, use_cache=False)).eval()
        return model, {"input_ids": torch.zeros(1, 16, dtype=torch.long)}


def phases(name: str) -> Iterator[dict[str, Any]]:
    """Build, capture, couple and plan; the plan captures and couples again, and proves itself by shape."""
    tiny = {**NARROW, "num_hidden_layers": 1}
    sc.plan(*build(tiny), ratio=0.5, criterion="random")  # a warm-up: first calls import half of torch
    yield {"peak_rss_bytes": peak_bytes()}
    model, tokens = build(MODELS[name])
    params = sum(parameter.numel() for parameter in model.parameters())
    yield {"count": params, "peak_rss_bytes": peak_bytes()}
    graph = capture(model, tokens)
    yield {"count": len(graph.nodes), "peak_rss_bytes": peak_bytes()}
    groups = couple_graph(graph)
    free = len([group for group in groups if group.is_prunable])
    yield {"count": len(groups), "free": free, "peak_rss_bytes": peak_bytes()}
    plan = sc.plan(model, tokens, ratio=0.5, scope="local", criterion="random")
    left = sum(parameter.numel() for parameter in plan.apply(model).parameters())
    yield {"count": left, "peak_rss_bytes": peak_bytes()}
