"""Small networks of residual blocks, each with one way of calling, adding or returning."""

import torch
from torch import nn


class BasicBlock(nn.Module):
    """As in resnet18: the addition is in place, an activation follows it."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += identity
        return self.relu(out)


class SmallResNet(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.layer1 = nn.Sequential(BasicBlock(width, width), BasicBlock(width, width))
        self.layer2 = nn.Sequential(BasicBlock(width, 2 * width, 2), BasicBlock(2 * width, 2 * width))
        self.fc = nn.Linear(2 * width, 5)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 2)
        return self.fc(self.layer2(self.layer1(x)).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x, mask=None):
        batch, length, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2)).softmax(-1)
        if mask is not None:
            weights = weights * mask
        return self.out((weights @ v).transpose(1, 2).reshape(batch, length, width)), weights


class EncoderLayer(nn.Module):
    """Normalises before each branch; returns the stream, or a tuple that begins with it."""

    def __init__(self, width=8, heads=2, returns="tensor"):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.returns = returns
        self.attention_type = "full"

    def forward(self, hidden, mask=None, cache=None):
        mixed, weights = self.attention(self.norm1(hidden), mask)
        hidden = hidden + mixed
        hidden = hidden + self.down(torch.tanh(self.up(self.norm2(hidden))))
        if self.returns == "tensor":
            return hidden
        return hidden, weights, mask, cache


class SmallViT(nn.Module):
    """Patches, a class token, position parameters, and a list of layers that are called one by one."""

    def __init__(self, depth=3, width=8):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 5, width))
        self.layers = nn.ModuleList(EncoderLayer(width) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        for layer in self.layers:
            if layer.attention_type == "full":
                x = layer(x)
        return self.head(self.norm(x)[:, 0])


class TupleEncoder(nn.Module):
    """Layers that are called by keyword and return tuples, of which the mask goes on to the next layer."""

    def __init__(self, depth=3, width=8, keeps_weights=False):
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(width, returns="tuple") for _ in range(depth))
        self.head = nn.Linear(width, 3)
        self.keeps_weights = keeps_weights

    def forward(self, x, mask):
        kept, cache = [], object()
        for layer in self.layers:
            x, weights, mask, returned = layer(hidden=x, mask=mask, cache=cache)
            assert returned is cache
            kept.append(weights)
        x = self.head(x)
        return (x, kept) if self.keeps_weights else x


class PostNormLayer(nn.Module):
    """As in BERT: normalises behind each addition."""

    def __init__(self, width=8):
        super().__init__()
        self.attention, self.norm1 = Attention(width, 2), nn.LayerNorm(width)
        self.up, self.down, self.norm2 = (
            nn.Linear(width, 2 * width),
            nn.Linear(2 * width, width),
            nn.LayerNorm(width),
        )

    def forward(self, x):
        x = self.norm1(x + self.attention(x)[0])
        return self.norm2(x + self.down(self.up(x).tanh()))


class Stack(nn.Module):
    """A stem, some blocks one after the other, a head."""

    def __init__(self, *blocks, width=8):
        super().__init__()
        self.stem = nn.Linear(4, width)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)))


class Branch(nn.Module):
    """The branch of a block; `add` says how it meets the stream."""

    def __init__(self, add, width=8):
        super().__init__()
        self.inner, self.outer = nn.Linear(width, 6), nn.Linear(6, width)
        self.add = add

    def forward(self, x):
        return self.add(x, self.outer(torch.tanh(self.inner(x))))


class Joint(nn.Module):
    """Two streams that see each other, as images and texts do; returns the second one first."""

    def __init__(self, width=8):
        super().__init__()
        self.left, self.right = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x, context):
        both = torch.tanh(torch.cat([x, context], 1).mean(1, keepdim=True))
        return context + self.right(context * both), x + self.left(x * both)


class TwoStreams(nn.Module):
    """Joint blocks over two inputs."""

    def __init__(self, depth=3, width=8):
        super().__init__()
        self.left, self.right = nn.Linear(4, width), nn.Linear(5, width)
        self.blocks = nn.ModuleList(Joint(width) for _ in range(depth))
        self.head = nn.Linear(width, 3)

    def forward(self, x, context):
        x, context = self.left(x), self.right(context)
        for block in self.blocks:
            context, x = block(x, context)
        return self.head(torch.cat([x, context], 1))


class Reversible(nn.Module):
    """Half of the channels are added to from the other half; takes and returns both as a pair."""

    def __init__(self, width=8):
        super().__init__()
        self.first, self.second = nn.Linear(width // 2, width // 2), nn.Linear(width // 2, width // 2)

    def forward(self, halves):
        one, two = halves
        one = one + torch.tanh(self.first(two))
        return one, two + torch.tanh(self.second(one))


class Reversed(nn.Module):
    """Reversible blocks in a row."""

    def __init__(self, depth=3, width=8):
        super().__init__()
        self.stem, self.head = nn.Linear(4, width), nn.Linear(width, 3)
        self.blocks = nn.Sequential(*(Reversible(width) for _ in range(depth)))

    def forward(self, x):
        return self.head(torch.cat(self.blocks(self.stem(x).chunk(2, -1)), -1))
