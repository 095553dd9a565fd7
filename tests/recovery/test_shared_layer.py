"""A layer that runs twice loses its constant once."""

import torch
from torch import nn

import secateur as sc


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.b(self.a(x).relu()), self.b(self.a(x + 3).relu())


def test_the_constant_of_a_shared_layer_is_absorbed_once():
    torch.manual_seed(0)
    net = Twice().double()
    with torch.no_grad():
        net.a.weight[:4], net.a.bias[:4] = 0, 1.0
        net.b.weight[:, :4] *= 0.01
    x = torch.randn(16, 4).double()
    result = sc.recover(sc.prune(net, x[:2], ratio=0.5), [x])
    for dense, cut in zip(net(x), result.model(x), strict=True):
        torch.testing.assert_close(cut, dense)
