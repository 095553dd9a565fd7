"""Opens a GGUF file with llama.cpp; where that is not installed, with the reader that transformers has."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

_F32 = 0
_OFF = 0
_MOST_TOKENS = 512


def load(path: str) -> tuple[str, Any]:
    """Open the file; what runs it takes token ids and returns logits."""
    import torch

    try:
        import cyllama
        from cyllama.llama import llama_cpp
    except ImportError:
        return _with_transformers(path)
    logits = _with_llama_cpp(llama_cpp, path)
    return f"llama.cpp (cyllama {cyllama.__version__})", (
        lambda input_ids, **others: torch.tensor([logits(tokens) for tokens in input_ids.tolist()])
    )


def _with_llama_cpp(llama_cpp: Any, path: str) -> Callable[[list[int]], list[list[float]]]:
    """What computes the logits of a text, token by token, in float32 throughout."""
    llama_cpp.disable_logging()
    llama_cpp.llama_backend_init()
    llama_cpp.ggml_backend_load_all()

    class Model(llama_cpp.LlamaModel):
        """With what `get_logits` of cyllama 0.2 asks a model for."""

        @property
        def n_vocab(self) -> int:
            held = self.get_vocab().n_vocab
            return int(held() if callable(held) else held)

    model = Model(path, verbose=False)
    params = llama_cpp.LlamaContextParams()
    params.n_ctx = params.n_batch = params.n_ubatch = _MOST_TOKENS
    params.n_threads = params.n_threads_batch = int(os.environ.get("OMP_NUM_THREADS", "1"))
    params.type_k = params.type_v = _F32
    params.flash_attn_type = _OFF
    context = llama_cpp.LlamaContext(model, params, verbose=False)

    def logits(tokens: list[int]) -> list[list[float]]:
        context.kv_cache_clear()
        rows = []
        for at, token in enumerate(tokens):
            batch = llama_cpp.LlamaBatch(n_tokens=1, embd=0, n_seq_max=1)
            batch.add(token, at, [0], True)
            if context.decode(batch):
                raise SystemExit("llama.cpp does not run the file")
            rows.append(list(context.get_logits()))
        return rows

    return logits


def _with_transformers(path: str) -> tuple[str, Any]:
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    folder, name = Path(path).parent, Path(path).name
    opener = transformers.AutoModelForCausalLM
    try:
        model = opener.from_pretrained(folder, gguf_file=name, dtype="float32").eval()
    except (ValueError, RuntimeError) as error:
        raise SystemExit(
            f"llama.cpp is not installed (pip install 'secateur[gguf]'), and transformers "
            f"{transformers.__version__} does not read this file: {str(error).splitlines()[0][:200]}"
        ) from error
    return f"transformers {transformers.__version__} (llama.cpp is not installed)", (
        lambda input_ids, **others: model(input_ids=input_ids).logits
    )
