"""Cuts after which numbers lie in a row that did not before: PyTorch then calls no `contiguous`."""

import nets
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import secateur as sc


class Heads(nn.Module):
    """Attention whose heads are made contiguous, which those of one head are already."""

    def __init__(self, heads, width=4):
        super().__init__()
        self.width = width
        self.q, self.k, self.v = (nn.Linear(8, heads * width) for _ in range(3))
        self.out = nn.Linear(heads * width, 8)

    def forward(self, x):
        batch, length, _ = x.shape
        q, k, v = (
            layer(x).view(batch, length, -1, self.width).transpose(1, 2).contiguous()
            for layer in (self.q, self.k, self.v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).contiguous()
        return self.out(mixed.view(batch, length, -1))


class Net(nn.Module):
    def __init__(self, heads):
        super().__init__()
        self.stem, self.attention, self.head = nn.Linear(5, 8), Heads(heads), nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.attention(x)).transpose(0, 1).contiguous()


@pytest.mark.parametrize("heads", [2, 4])
def test_one_head_is_left_and_recovered(heads):
    net, x = nets.randomise(Net(heads)), torch.randn(2, 7, 5)
    asked = {"attention.q": 1 - 1 / heads}
    result = sc.prune(net, x, channels=asked, scope="local", min_keep=0.01)
    assert result.model.attention.q.out_features == 4
    assert result.verdict.exact
    data = [torch.randn(4, 7, 5) for _ in range(3)]
    better = sc.recover(result, data, ["refit"])
    assert better.errors[0].after < better.errors[0].before
    assert any(one.layer == "attention.out" for one in better.recovered)
    assert sc.check(net, result.plan, x).exact
