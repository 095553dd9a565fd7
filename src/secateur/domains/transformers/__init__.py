"""Hugging Face: folders that `from_pretrained` reads, and GGUF files for llama.cpp (docs/decisions/0019)."""

from secateur.domains.transformers import exporting

__all__ = ["exporting"]
