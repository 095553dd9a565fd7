"""The proof on smaller images: taken where the model does the same there, as sharp as on the example."""

from functools import cache

import pytest
import torch
from faults_runs import planted
from faults_runs.kinds import KINDS
from faults_runs.networks import Network
from faults_runs.planted import run_network
from torch import nn

import secateur as sc
from secateur.coupling import Recorded
from secateur.proof import elsewhere, smaller, verification

LARGE = torch.zeros(1, 3, 160, 160)


class Squeezed(nn.Module):
    """Convolutions of several kinds, a gate, a concatenation, channels in halves: all of any image size."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU())
        self.deep = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1, groups=8), nn.BatchNorm2d(8), nn.ReLU6())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1))
        self.wide = nn.Conv2d(8, 12, 1)
        self.norm = nn.GroupNorm(2, 12)
        self.head = nn.Linear(20, 5)

    def forward(self, x):
        x = self.deep(self.stem(x))
        x = x * self.gate(x).sigmoid()
        left, right = self.norm(self.wide(x)).chunk(2, 1)
        return self.head(torch.cat([x, left, right.tanh()], 1).mean((2, 3)))


class Attended(nn.Module):
    """Attention over pixels, with a table of positions that is brought to the size of the map."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 16, 16)
        self.place = nn.Parameter(torch.randn(1, 16, 4, 4))
        self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.patch(x)
        x = x + nn.functional.interpolate(self.place, size=x.shape[-2:], mode="bilinear")
        x = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head((x + self.out(y)).mean(1))


NETS = {"squeezed": Squeezed, "attended": Attended}


def sides(monkeypatch):
    """The sides of the images that passes are made on, as they are made."""
    seen = []
    right = verification.run_pass

    def looked_at(reference, model, cut, inputs, **options):
        seen.append(inputs.shape[-1])
        return right(reference, model, cut, inputs, **options)

    for module in (verification, elsewhere):
        monkeypatch.setattr(module, "run_pass", looked_at)
    return seen


@pytest.mark.parametrize("name", NETS)
def test_what_does_the_same_on_smaller_images_is_proven_there_on_two_sizes(name, monkeypatch):
    torch.manual_seed(0)
    seen = sides(monkeypatch)
    result = sc.prune(NETS[name]().eval(), LARGE, ratio=0.5)
    assert result.verdict.passed
    assert not result.verdict.limits
    assert sorted(set(seen)) == [64, 96]


def verified(model, cut, inputs, groups, plan, seed=0):
    """As `prune` asks for it."""
    return verification.verify(model, cut, inputs, groups, plan, seed, Recorded.of(model, inputs))


@cache
def trial(name):
    def make():
        torch.manual_seed(0)
        return NETS[name](), LARGE

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planted, "verify", verified)
        return run_network(Network(name, "large", make), list(KINDS), 2)


@pytest.mark.parametrize("name", NETS)
def test_every_fault_in_a_cut_of_large_images_is_seen(name):
    found = trial(name)
    assert found.right, found.refused
    assert sum(found.planted.values()) >= 10
    assert found.unseen == []


class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, 32, 1), nn.Linear(100, 2)

    def forward(self, x):
        return self.head(self.conv(x).flatten(1))


class Large(nn.Module):
    """Another path for large images, by a size that the record holds as a number at most."""

    def __init__(self, change):
        super().__init__()
        self.conv, self.out, self.change = nn.Conv2d(3, 8, 3, 8), nn.Conv2d(8, 4, 1), change

    def forward(self, x):
        return self.out(self.change(self.conv(x), x.shape[-1] > 128))


OTHERWISE = {
    "a size that is fixed": Fixed,
    "another operator": lambda: Large(lambda y, large: y.relu() if large else y),
    "another number": lambda: Large(lambda y, large: y * (2.0 if large else 3.0)),
    "another switch": lambda: Large(lambda y, large: nn.functional.avg_pool2d(y, 2, ceil_mode=large)),
    "other operands": lambda: Large(lambda y, large: torch.sub(*((y, y.relu()) if large else (y.relu(), y)))),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_does_something_else_on_smaller_images_is_proven_on_the_example(name, monkeypatch):
    torch.manual_seed(0)
    seen = sides(monkeypatch)
    assert sc.prune(OTHERWISE[name]().eval(), LARGE, ratio=0.5).verdict.exact
    assert seen[0] == 160
    assert 96 not in seen


def test_a_failure_on_smaller_images_counts_where_the_example_shows_none(monkeypatch):
    """As it is another cut's: something there differs, whatever the reason."""
    torch.manual_seed(0)
    model = Squeezed().eval()
    result = sc.prune(model, LARGE, ratio=0.5, check=False)
    right = verification.run_pass

    def wrong(reference, original, cut, inputs, **options):
        if inputs.shape[-1] == 96:
            with torch.no_grad():
                cut.head.weight.mul_(1.5)
        return right(reference, original, cut, inputs, **options)

    for module in (verification, elsewhere):
        monkeypatch.setattr(module, "run_pass", wrong)
    verdict = verified(model, result.model, LARGE, result.groups, result.plan)
    assert verdict.failure.startswith("on smaller images: masked and cut numbers differ")
    assert verdict.suspects


def test_what_is_proven_with_limits_on_smaller_images_is_proven_on_the_example(monkeypatch):
    seen = sides(monkeypatch)
    noisy = nn.Sequential(Squeezed(), nn.Linear(5, 5)).eval()
    right = verification.Proof.verdict

    def limited(self, cut, differences=()):
        if self.example_inputs.shape[-1] == 96:
            self.limits.append("a limit")
        return right(self, cut, differences)

    monkeypatch.setattr(verification.Proof, "verdict", limited)
    torch.manual_seed(0)
    assert not sc.prune(noisy, LARGE, ratio=0.5).verdict.limits
    assert {96, 160} <= set(seen)


@pytest.mark.parametrize(
    "shape", [(1, 3, 128, 160), (1, 3, 64, 64), (4, 200), (2, 200, 16), (1, 3, 8, 160, 160)]
)
def test_small_images_and_what_is_no_image_stay_as_they_are(shape):
    assert smaller.smaller_inputs(torch.zeros(*shape)) is None
