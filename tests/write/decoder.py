"""A small decoder as large language models are built: grouped keys, rotary positions, RMS norm, SwiGLU."""

import json

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

WIDTH, HEADS, KEY_HEADS, HEAD_WIDTH, INNER, WORDS = 32, 4, 2, 8, 24, 40


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Rotary(nn.Module):
    def __init__(self):
        super().__init__()
        steps = torch.arange(0, HEAD_WIDTH, 2, dtype=torch.float32) / HEAD_WIDTH
        self.register_buffer("inv_freq", 1.0 / 10000**steps, persistent=False)

    def forward(self, length):
        positions = torch.arange(length, dtype=torch.float32, device=self.inv_freq.device)
        angles = positions[:, None] * self.inv_freq
        both = torch.cat([angles, angles], -1)
        return both.cos(), both.sin()


def turn(x, cos, sin):
    left, right = x.chunk(2, -1)
    return x * cos.to(x.dtype) + torch.cat([-right, left], -1) * sin.to(x.dtype)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj = nn.Linear(WIDTH, HEADS * HEAD_WIDTH, bias=False)
        self.k_proj = nn.Linear(WIDTH, KEY_HEADS * HEAD_WIDTH, bias=False)
        self.v_proj = nn.Linear(WIDTH, KEY_HEADS * HEAD_WIDTH, bias=False)
        self.o_proj = nn.Linear(HEADS * HEAD_WIDTH, WIDTH, bias=False)

    def forward(self, x, cos, sin):
        batch, length, _ = x.shape
        shape = (batch, length, -1, HEAD_WIDTH)
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj))
        q, k = turn(q, cos, sin), turn(k, cos, sin)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_norm, self.self_attn, self.post_norm = Norm(), Attention(), Norm()
        self.gate_proj = nn.Linear(WIDTH, INNER, bias=False)
        self.up_proj = nn.Linear(WIDTH, INNER, bias=False)
        self.down_proj = nn.Linear(INNER, WIDTH, bias=False)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_norm(x), cos, sin)
        inner = self.post_norm(x)
        return x + self.down_proj(F.silu(self.gate_proj(inner)) * self.up_proj(inner))


class Decoder(nn.Module):
    def __init__(self, layers=3, tied=False):
        super().__init__()
        self.embed_tokens = nn.Embedding(WORDS, WIDTH)
        self.rotary = Rotary()
        self.layers = nn.ModuleList(Layer() for _ in range(layers))
        self.norm = Norm()
        self.lm_head = nn.Linear(WIDTH, WORDS, bias=False)
        if tied:
            self.lm_head.weight = self.embed_tokens.weight

    def forward(self, words):
        x = self.embed_tokens(words)
        cos, sin = self.rotary(words.shape[1])
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.lm_head(self.norm(x))


TOKENS = torch.zeros(1, 6, dtype=torch.long)


def on_meta(**given):
    """A decoder without values; its rotary table, which no checkpoint holds, has some."""
    with torch.device("meta"):
        model = Decoder(**given)
    model.rotary = Rotary()
    return model


def write_sharded(state, folder, files):
    """Write tensors as transformers does: in turn to several files, with an index."""
    folder.mkdir()
    state = {name: tensor.clone() for name, tensor in state.items()}
    names = [f"model-{number:05}-of-{files:05}.safetensors" for number in range(1, files + 1)]
    held = [dict(list(state.items())[start::files]) for start in range(files)]
    for name, tensors in zip(names, held, strict=True):
        save_file(tensors, folder / name, {"format": "pt"})
    placed = {tensor: name for name, tensors in zip(names, held, strict=True) for tensor in tensors}
    index = {"metadata": {"total_size": 0}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
