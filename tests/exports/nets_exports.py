"""Networks that are exported: plain ones, some whose code a cut corrects, and some that fix a size."""

import functools

import torch
from torch import nn


def decorated(function):
    """As transformers decorates methods whose arguments were renamed."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapped


def cnn():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 4, 1),
    )


class Attention(nn.Module):
    """Attention over pixels as in YOLO11: widths from its input's shape."""

    def __init__(self, width=32, heads=2):
        super().__init__()
        self.width = width // 2
        self.enter, self.leave = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.heads, self.head_width = heads, self.width // heads
        self.key_width = self.head_width // 2
        self.qkv = nn.Conv2d(self.width, self.width + 2 * self.key_width * heads, 1)
        self.place = nn.Conv2d(self.width, self.width, 3, 1, 1, groups=self.width)

    def attend(self, x):
        batch, width, rows, columns = x.shape
        parts = self.key_width, self.key_width, self.head_width
        q, k, v = self.qkv(x).view(batch, self.heads, sum(parts), rows * columns).split(parts, 2)
        weights = ((q.transpose(-2, -1) @ k) * self.key_width**-0.5).softmax(-1)
        found = (v @ weights.transpose(-2, -1)).view(batch, width, rows, columns)
        return found + self.place(v.reshape(batch, width, rows, columns))

    def forward(self, x):
        one, two = self.enter(x).split((self.width, self.width), 1)
        return self.leave(torch.cat((one, two + self.attend(two)), 1))


class Corrected(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 4, 1), nn.BatchNorm2d(32), nn.SiLU())
        self.attention, self.head = Attention(), nn.Conv2d(32, 5, 1)

    def forward(self, x):
        return self.head(self.attention(self.stem(x)).relu())


class Shifted(nn.Module):
    """Temporal shift: which channels move is computed from their number."""

    def __init__(self):
        super().__init__()
        self.enter, self.mix = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, 5)

    @decorated
    @decorated
    def shift(self, x, frames):
        count, channels, rows, columns = x.shape
        fold = channels // 8
        x = x.view(count // frames, frames, channels, rows, columns)
        moved = torch.zeros_like(x)
        moved[:, :-1, :fold] = x[:, 1:, :fold]
        moved[:, 1:, fold : 2 * fold] = x[:, :-1, fold : 2 * fold]
        moved[:, :, 2 * fold :] = x[:, :, 2 * fold :]
        return moved.view(count, channels, rows, columns)

    def forward(self, x):
        batch, frames, channels, rows, columns = x.shape
        y = self.enter(x.view(batch * frames, channels, rows, columns)).relu()
        y = self.mix(self.shift(y, frames)).relu().mean((2, 3))
        return self.head(y).view(batch, frames, -1).mean(1)


class Block(nn.Module):
    """A block as nanoGPT writes it: fused qkv, split by a width it holds, joined by that of its input."""

    def __init__(self, width=32, heads=4):
        super().__init__()
        self.heads, self.width = heads, width
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def attend(self, x):
        B, T, C = x.size()  # noqa: N806 - as there
        q, k, v = self.qkv(x).split(self.width, dim=2)
        q, k, v = (one.view(B, T, self.heads, C // self.heads).transpose(1, 2) for one in (q, k, v))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.join(y.transpose(1, 2).contiguous().view(B, T, C))

    def forward(self, x):
        x = x + self.attend(self.norm(x))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Language(nn.Module):
    """A small language model that takes names and returns them."""

    def __init__(self, vocabulary=20, width=32):
        super().__init__()
        self.embed, self.place = nn.Embedding(vocabulary, width), nn.Embedding(64, width)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens, mask=None):
        x = self.embed(tokens) + self.place(torch.arange(tokens.shape[1]))
        if mask is not None:
            x = x * mask[..., None]
        return {"logits": self.head(self.blocks(x)), "hidden": x}


@torch.fx.wrap
def fold(y):
    """A helper that symbolic tracing does not look into, as torchvision's Swin has."""
    folded = y.shape[1] // 4
    return torch.cat([-y[:, :folded], y[:, folded:]], 1).relu()


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 5, 1)
        with torch.no_grad():
            self.enter.weight[:8] *= 9  # what is folded stays: a quarter of what is left is another number

    def forward(self, x):
        return self.leave(fold(self.enter(x)))


class Baked(nn.Module):
    """Scales by a number that Python computes from a size: a trace keeps the one of its example."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x):
        return self.conv(x).sum((2, 3)) * (1.0 / float(int(x.shape[2]) * int(x.shape[3])))


class Looped(nn.Module):
    """Goes through the samples in Python, so that an exporter cannot leave their number open."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 6)

    def forward(self, x):
        return torch.stack([self.linear(one) * (at + 1) for at, one in enumerate(x)])


TOKENS = {"tokens": torch.arange(16).view(2, 8), "mask": torch.tensor([[1.0] * 8, [1.0] * 5 + [0.0] * 3])}
NETS = {
    "cnn": (cnn, torch.zeros(1, 3, 16, 16)),
    "corrected": (Corrected, torch.zeros(1, 3, 32, 32)),
    "shifted": (Shifted, torch.zeros(2, 4, 3, 16, 16)),
    "language": (Language, TOKENS),
    "wrapped": (Wrapped, torch.zeros(1, 3, 16, 16)),
}


def make(name, seed=0):
    """A network with weights that differ, in eval mode, and its example inputs."""
    torch.manual_seed(seed)
    build, example = NETS[name]
    return build().eval(), example
