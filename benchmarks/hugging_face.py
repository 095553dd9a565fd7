"""Which cuts of which models of transformers become folders that it reads, and how.

    python benchmarks/hugging_face.py [MODEL ...] [--request REQUEST] [--json results/hugging_face.json]

Each model is tiny and random. Each cut is proven against the masked model and exported, which reads the
folder back in a fresh process without secateur, compares the outputs at two sizes, and the tokens that it
generates with and without cache, for a batch and by beams. Rows of the JSON file that are run again are
replaced, others stay. `scripts/generate` makes the table of docs/hugging-face.md of it.
"""

import argparse
import json
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch
import transformers
from torch import nn

import secateur as sc
from secateur.errors import RequestError, SecateurError

Row: TypeAlias = dict[str, Any]

_NO_PROMPT = ("whisper",)
"""Generates from sounds: its tokens are not compared."""

_TEXT = {
    "vocab_size": 101,
    "hidden_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 160,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
_ENCODER = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
}
_GPT2 = {"vocab_size": 101, "n_positions": 64, "n_embd": 96, "n_layer": 2, "n_head": 6, "bos_token_id": 1}
_GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 6}
_OPT = {"ffn_dim": 160, "word_embed_proj_dim": 96}
_WHISPER = {
    "vocab_size": 101,
    "d_model": 48,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 80,
    "decoder_ffn_dim": 96,
    "num_mel_bins": 8,
    "max_source_positions": 20,
    "max_target_positions": 20,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
_T5 = {
    "vocab_size": 101,
    "d_model": 48,
    "d_kv": 12,
    "d_ff": 80,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
_CLIP = {
    "text_config": {**_ENCODER, "vocab_size": 101, "max_position_embeddings": 32, "eos_token_id": 2},
    "vision_config": {**_ENCODER, "image_size": 32, "patch_size": 8},
    "projection_dim": 24,
}
_CAUSAL = "AutoModelForCausalLM"
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("llama", _CAUSAL, _TEXT),
    "qwen2": ("qwen2", _CAUSAL, _TEXT),
    "qwen3": ("qwen3", _CAUSAL, {**_TEXT, "head_dim": 16, "tie_word_embeddings": True}),
    "mistral": ("mistral", _CAUSAL, {**_TEXT, "sliding_window": 6}),
    "gemma3": ("gemma3_text", _CAUSAL, {**_TEXT, **_GEMMA}),
    "phi3": ("phi3", _CAUSAL, {**_TEXT, "original_max_position_embeddings": 64}),
    "mixtral": ("mixtral", _CAUSAL, {**_TEXT, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "gpt2": ("gpt2", _CAUSAL, _GPT2),
    "gpt_neox": ("gpt_neox", _CAUSAL, _TEXT),
    "opt": ("opt", _CAUSAL, {**_TEXT, **_OPT}),
    "bert": ("bert", "AutoModelForSequenceClassification", {**_ENCODER, "vocab_size": 101}),
    "vit": ("vit", "AutoModelForImageClassification", {**_ENCODER, "image_size": 32, "patch_size": 8}),
    "whisper": ("whisper", "AutoModelForSpeechSeq2Seq", _WHISPER),
    "clip": ("clip", "AutoModel", _CLIP),
    "t5": ("t5", "AutoModelForSeq2SeqLM", _T5),
}
"""By name: the type of the config, the auto class, and the config."""


def build(name: str) -> tuple[Any, dict[str, torch.Tensor]]:
    """A tiny model, and inputs of it."""
    kind, auto, config = MODELS[name]
    torch.manual_seed(0)
    made = getattr(transformers, auto).from_config(transformers.AutoConfig.for_model(kind, **config)).eval()
    tokens = torch.randint(3, 101, (2, 9))
    pixels = torch.randn(2, 3, 32, 32)
    given = {
        "vit": {"pixel_values": pixels},
        "whisper": {"input_features": torch.randn(2, 8, 40), "decoder_input_ids": tokens},
        "clip": {"input_ids": tokens, "pixel_values": pixels},
        "t5": {"input_ids": tokens, "decoder_input_ids": tokens},
    }
    return made, given.get(name, {"input_ids": tokens})


def _prune(**words: Any) -> Callable[[nn.Module, Any, Row], Any]:
    def cut(model: nn.Module, inputs: Any, row: Row) -> Any:
        result = sc.prune(model, inputs, **words)
        row["proof"], row["limits"] = [_proof(result)], list(result.verdict.limits)
        return result

    return cut


def _drop(model: nn.Module, inputs: Any, row: Row) -> Any:
    """Without the first layer that can go: T5 computes the biases of all layers in its first one."""
    lists = [name for name, part in model.named_modules() if isinstance(part, nn.ModuleList)]
    layers = next(name for name in lists if re.search(r"(layers?|h|block)$", name))
    for at in range(len(model.get_submodule(layers))):
        try:
            found = sc.drop_blocks(model, inputs, blocks=[f"{layers}.{at}"])
        except RequestError as error:
            row.setdefault("not_dropped", {})[f"{layers}.{at}"] = (
                error.context[-1] if error.context else str(error)
            )
            continue
        row["dropped"] = f"{layers}.{at}"
        result = sc.prune(found.model, inputs, ratio=0.5, uniform=True)
        row["proof"], row["limits"] = [_proof(found), _proof(result)], list(result.verdict.limits)
        return result
    raise RequestError(f"no layer of {layers} can be dropped", list(row["not_dropped"].values()))


def _proof(result: Any) -> str:
    verdict = result.verdict
    return f"{'exact' if verdict.exact else 'renormalised'}, {verdict.relative_error:.0e}"


REQUESTS: dict[str, Callable[[nn.Module, Any, Row], Any]] = {
    "uniform": _prune(ratio=0.5, uniform=True),
    "by score": _prune(ratio=0.5),
    "head widths": _prune(ratio=0.25, axes="widths"),
    "a layer dropped, then uniform": _drop,
}


def run(name: str, request: str) -> Row:
    """One row: what is left, the proof, how the folder is read, and how far its outputs are."""
    model, inputs = build(name)
    row: Row = {"model": name, "request": request}
    before, start = sum(held.numel() for held in model.parameters()), cpu_seconds()
    try:
        result = REQUESTS[request](model, inputs, row)
        row["left"] = round(sum(held.numel() for held in result.model.parameters()) / before, 3)
        row["fields"] = {
            path.removeprefix("config."): number for path, number in result.plan.numbers.get("", {}).items()
        }
        row["whole"] = sorted({why for why in result.plan.reasons.values() if why.startswith("uniform")})
        with tempfile.TemporaryDirectory() as folder:
            made = sc.export(result, Path(folder, "cut"), format="hf")
            code = Path(folder, "cut", "modeling_cut.py")
            is_remote = code.is_file()
            row["corrects"] = is_remote and "METHODS" in code.read_text()
        row |= {"form": "remote code" if is_remote else "plain", "errors": dict(made.errors)}
        failures = [note for note in made.notes if note.startswith("generate(")]
        row |= {"reader": made.reader, "notes": failures}
        row["generates"] = bool(model.can_generate()) and name not in _NO_PROMPT and not failures
    except SecateurError as error:
        row |= {"form": "refused", "why": str(error)}
    row["cpu_seconds"] = round(cpu_seconds() - start, 1)
    return row


def cpu_seconds() -> float:
    """Of this process and those that it has ended: readers are processes of their own."""
    told = os.times()
    return told.user + told.system + told.children_user + told.children_system


def merge(path: Path, rows: Sequence[Row]) -> None:
    """Write rows to a file; those of the same model and request are replaced."""
    held = (
        {(row["model"], row["request"]): row for row in json.loads(path.read_text())["rows"]}
        if path.is_file()
        else {}
    )
    held |= {(row["model"], row["request"]): row for row in rows}
    order = [(name, request) for request in REQUESTS for name in MODELS]
    told = {"transformers": transformers.__version__, "torch": torch.__version__}
    told["rows"] = [held[key] for key in order if key in held]
    path.write_text(json.dumps(told, indent=1) + "\n")


def main() -> None:
    """Run the models and requests that were asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", help=f"of {', '.join(MODELS)}; all if none")
    parser.add_argument("--request", choices=REQUESTS, action="append", help="all if none")
    parser.add_argument("--json", type=Path, help="write the rows there, after each")
    asked = parser.parse_args()
    for request in asked.request or REQUESTS:
        for name in asked.models or MODELS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                row = run(name, request)
            why = row.get("why", "").replace("\n", " | ")[:300]
            worst = max(row.get("errors", {"": float("nan")}).values())
            told = f"{name:9} {request:30} {row.get('left', '-')!s:6} {row['form']:12} {worst:.0e}"
            print(told, *row.get("proof", []), why, flush=True)
            if asked.json:
                merge(asked.json, [row])


if __name__ == "__main__":
    main()
