"""GGUF: one file for llama.cpp, of models with the layers of Llama.

    Llama, Mistral, Qwen2, one width    arch llama    rows of q and k in llama.cpp's order: (h 2 d) -> (h d 2)
    the same, widths by layer           arch deci     lists of heads and widths
    Qwen3                               arch qwen3    rows as they are; one width

Numbers are read off the modules, not the config. Tensors keep their type (F32, F16 or BF16); `llama-quantize`
makes K-quants of them, for which rows must be multiples of 256.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.domains.transformers.folder import require_pretrained
from secateur.errors import ExportError
from secateur.extras import extra

_LLAMA = ("llama", "mistral", "qwen2")
_QWEN3 = "qwen3"
_K_QUANT = 256


def write_gguf(model: nn.Module, path: Path) -> Sequence[str]:
    """Write a causal language model for llama.cpp.

    Args:
        model: A model of transformers, cut or not.
        path: The file.

    Returns:
        What else to know.

    Raises:
        ExportError: llama.cpp does not compute such a model; with the request that would fit.
        MissingExtraError: gguf is not installed.
    """
    pretrained = require_pretrained(model)
    with extra("gguf", "GGUF files"):
        import gguf
    config, layers = pretrained.config, _layers(pretrained)
    head = int(layers[0].self_attn.head_dim)
    widths = [_widths(layer, head) for layer in layers]
    arch = _arch(config.model_type, widths)
    _require_alike(pretrained, head)
    writer = gguf.GGUFWriter(str(path), arch)
    try:
        _describe(writer, pretrained, widths, head)
        notes = _vocabulary(writer, gguf, config)
        names = gguf.get_tensor_name_map(_architecture(gguf, arch), len(layers))
        for name, tensor in _tensors(pretrained, head, is_permuted=arch != _QWEN3):
            _add(writer, gguf, _renamed(names, name), tensor)
        factors = _factors(pretrained, head)
        if factors is not None:
            _add(writer, gguf, "rope_freqs.weight", factors)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    return [*notes, *_k_quants(widths)]


def require_gguf(model: nn.Module, uniform: bool) -> None:
    """Refuse a model that llama.cpp does not compute, or only of one width, before it is cut.

    Args:
        model: A model of transformers, uncut.
        uniform: It will be cut to one width.

    Raises:
        ExportError: It is such a model; with the request that would fit.
        MissingExtraError: gguf is not installed.
    """
    pretrained = require_pretrained(model)
    with extra("gguf", "GGUF files"):
        import gguf  # noqa: F401
    head = int(_layers(pretrained)[0].self_attn.head_dim)
    _require_alike(pretrained, head)
    _factors(pretrained, head)
    if pretrained.config.model_type == _QWEN3 and not uniform:
        what = "llama.cpp's qwen3 has one width for all layers"
        raise ExportError(what, do="prune with uniform=True, or export it with format='hf'")


def _layers(model: Any) -> Sequence[Any]:
    if model.config.model_type not in (*_LLAMA, _QWEN3) or not hasattr(model, "lm_head"):
        raise ExportError(
            f"{type(model).__name__} is not written as GGUF",
            [f"written are causal language models of {', '.join((*_LLAMA, _QWEN3))}"],
            "export it with format='hf', and use llama.cpp's convert_hf_to_gguf.py",
        )
    return list(model.model.layers)


def _widths(layer: Any, head: int) -> tuple[int, int, int]:
    """Heads, key-value heads and the width of the feed-forward part."""
    attention = layer.self_attn
    rows = (attention.q_proj.weight.shape[0], attention.k_proj.weight.shape[0])
    return rows[0] // head, rows[1] // head, layer.mlp.gate_proj.weight.shape[0]


def _arch(kind: str, widths: Sequence[tuple[int, int, int]]) -> str:
    is_even = len(set(widths)) == 1
    if kind == _QWEN3 and not is_even:
        raise ExportError(
            "widths differ by layer, and llama.cpp's qwen3 has one for all",
            [f"heads, key-value heads, feed-forward: {', '.join(map(str, widths[:3]))}, ..."],
            "prune with uniform=True",
        )
    return _QWEN3 if kind == _QWEN3 else "llama" if is_even else "deci"


def _require_alike(model: Any, head: int) -> None:
    """Refuse what llama.cpp's layers do not do."""
    config, attention = model.config, model.model.layers[0].self_attn
    is_sliding = any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ())
    is_sliding |= config.model_type == "mistral" and config.sliding_window is not None
    odd = {
        "a sliding window": is_sliding,
        f"hidden_act={config.hidden_act}": config.hidden_act != "silu",
        f"a scale of {attention.scaling} of heads of {head}": abs(attention.scaling * head**0.5 - 1) > 1e-6,
    }
    for what, is_so in odd.items():
        if is_so:
            raise ExportError(f"{what} is not what llama.cpp computes", do="export it with format='hf'")


def _describe(writer: Any, model: Any, widths: Sequence[tuple[int, int, int]], head: int) -> None:
    """The numbers of the model."""
    config = model.config
    heads, kv_heads, inner = ([one[at] for one in widths] for at in range(3))
    one = lambda numbers: numbers[0] if len(set(widths)) == 1 else numbers  # noqa: E731
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(model.model.embed_tokens.weight.shape[1])
    writer.add_block_count(len(widths))
    writer.add_feed_forward_length(one(inner))
    writer.add_head_count(one(heads))
    writer.add_head_count_kv(one(kv_heads))
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_vocab_size(model.model.embed_tokens.weight.shape[0])


def _vocabulary(writer: Any, gguf: Any, config: Any) -> list[str]:
    """The tokenizer of the GGUF file that the model came from, or none."""
    folder = Path(str(getattr(config, "name_or_path", "") or "?"))
    found = folder.glob("[!.]*.gguf") if folder.is_dir() else ()
    sources = sorted(one for one in found if one.is_file())
    if not sources:
        writer.add_tokenizer_model("no_vocab")
        return [
            "no tokenizer: llama.cpp takes token ids alone; convert_hf_to_gguf.py of a folder (hf) adds it"
        ]
    for key, field in gguf.GGUFReader(sources[0]).fields.items():
        if key.startswith("tokenizer."):
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), field.types[0], sub_type=inner)
    return []


def _tensors(model: Any, head: int, *, is_permuted: bool) -> Iterator[tuple[str, Tensor]]:
    is_tied = model.lm_head.weight is model.model.embed_tokens.weight
    for name, tensor in model.state_dict().items():
        if is_tied and name.startswith("lm_head."):
            continue
        if is_permuted and re.search(r"\.(q|k)_proj\.", name):
            tensor = tensor.unflatten(0, (-1, 2, head // 2)).transpose(1, 2).flatten(0, 2)
        yield name, tensor


def _factors(model: Any, head: int) -> Tensor | None:
    """By how much each frequency of the rotary embedding is slower than by its base; None if none is."""
    rotary = model.model.rotary_emb
    base = float(model.config.rope_parameters["rope_theta"])
    plain = base ** (-torch.arange(0, head, 2, dtype=torch.float64) / head)
    if rotary.inv_freq.shape != plain.shape or rotary.attention_scaling != 1:
        raise ExportError(
            f"the rotary embedding ({rotary.rope_type}) is not what llama.cpp computes",
            do="export it with format='hf'",
        )
    factors = (plain / rotary.inv_freq.double()).float()
    if bool((factors - 1).abs().max() < 1e-4):
        return None
    if model.config.model_type == _QWEN3:
        raise ExportError("llama.cpp's qwen3 takes no scaled frequencies", do="export it with format='hf'")
    return factors


def _renamed(names: Any, name: str) -> str:
    found: str | None = names.get_name(name, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise ExportError(f"llama.cpp has no tensor for {name}", do="export it with format='hf'")
    return found


def _architecture(gguf: Any, arch: str) -> Any:
    return next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == arch)


def _add(writer: Any, gguf: Any, name: str, tensor: Tensor) -> None:
    """Write a tensor in its own type; vectors in float32, as llama.cpp wants them."""
    kinds: Mapping[Any, Any] = {
        torch.bfloat16: gguf.GGMLQuantizationType.BF16,
        torch.float16: gguf.GGMLQuantizationType.F16,
    }
    kind = kinds.get(tensor.dtype, gguf.GGMLQuantizationType.F32)
    kind = gguf.GGMLQuantizationType.F32 if tensor.dim() < 2 else kind
    writer.add_tensor(name, gguf.quants.quantize(tensor.float().contiguous().numpy(), kind), raw_dtype=kind)


def _k_quants(widths: Sequence[tuple[int, int, int]]) -> list[str]:
    odd = sorted({inner for _, _, inner in widths if inner % _K_QUANT})
    if not odd:
        return []
    return [
        f"rows of {odd[0]} are no multiples of {_K_QUANT}: llama-quantize falls back from K-quants to larger "
        f"types there; round_to={_K_QUANT} avoids it"
    ]
