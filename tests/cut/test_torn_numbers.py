"""One number in the code, several axes that ask different ones of it: those axes stay whole, no others."""

import torch
from torch import nn

import secateur as sc


class Cascade(nn.Module):
    """Heads that are computed one after the other, all split by the same two numbers."""

    def __init__(self):
        super().__init__()
        self.stem, self.key_dim, self.val_dim = nn.Conv2d(3, 12, 1), 4, 6
        self.heads = nn.ModuleList(nn.Conv2d(12, 14, 1) for _ in range(3))
        self.out, self.wide, self.last = nn.Conv2d(18, 12, 1), nn.Conv2d(12, 20, 1), nn.Conv2d(20, 5, 1)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        found = []
        for head in self.heads:
            q, k, v = head(x).split([self.key_dim, self.key_dim, self.val_dim], dim=1)
            found.append(v * torch.sigmoid((q * k).sum(1, keepdim=True)))
        return self.last(torch.relu(self.wide(self.out(torch.cat(found, 1)))))


def test_only_what_asks_different_numbers_stays_whole():
    torch.manual_seed(0)
    result = sc.prune(Cascade(), torch.randn(2, 3, 6, 6), ratio=0.5, scope="global")
    assert result.verdict.exact
    left = {group.name: len(group.keep) / group.size for group in result.plan.groups}
    assert left["stem"] < 1
    assert left["wide"] < 1
    told = [
        reason
        for reason in result.plan.reasons.values()
        if "serves runs that need different numbers" in reason
    ]
    assert told
    assert not [name for name in result.plan.reasons if name in ("stem", "wide")]


def test_equal_counts_are_cut_with_the_number():
    torch.manual_seed(0)
    result = sc.prune(Cascade(), torch.randn(2, 3, 6, 6), ratio=0.5, scope="local")
    assert result.verdict.exact
    assert (result.model.key_dim, result.model.val_dim) == (2, 3)
