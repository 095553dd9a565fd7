"""The memory that is computed from the record is what a real run holds at once."""

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import secateur as sc
from secateur.costs.memory import activation_bytes, memory_meter
from secateur.costs.meter import CostMeter, Term, macs_meter, params_meter, size_meter
from secateur.graph.axes import Axis


class Living(TorchDispatchMode):
    """Sums the bytes of all storages alive after each call, those that were known before left out."""

    def __init__(self, known):
        super().__init__()
        self.known = {tensor.untyped_storage()._cdata for tensor in known}
        self.living, self.peak = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(output):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in self.known:
                storage = leaf.untyped_storage()
                self.living[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.living = {key: held for key, held in self.living.items() if not held[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.living.values()))
        return output


def bytes_of_a_real_run(model, x):
    state = [*model.parameters(), *model.buffers()]
    with torch.inference_mode(), Living([*state, x]) as living:
        model.eval()(x)
    return sum(t.numel() * t.element_size() for t in [*state, x]) + living.peak


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Linear(8, 5)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        x = F.relu_(self.norm(self.stem(x)))
        x = x + F.relu(self.body(x))
        return self.head(F.dropout(x.mean((2, 3)), 0.5, self.training))


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.last = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 10, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        left, right = torch.cat([self.one(x), self.two(x)], 1).chunk(2, 1)
        return self.last(left * right.sigmoid())


class Heads(nn.Module):
    """The reshape behind the transposition makes a copy, the views before it do not."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(12, 12) for _ in range(4))

    def forward(self, x):
        n, t, _ = x.shape
        parts = (part(x).view(n, t, -1, 4).transpose(1, 2) for part in (self.query, self.key, self.value))
        return self.out(F.scaled_dot_product_attention(*parts).transpose(1, 2).reshape(n, t, -1))


NETS = {
    "residual": (Residual, (2, 3, 9, 9)),
    "branches": (Branches, (1, 3, 8, 8)),
    "heads": (Heads, (2, 7, 12)),
    "half": (lambda: nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)).half(), (5, 4)),
}


@pytest.mark.parametrize("name", NETS)
def test_memory_is_what_a_real_run_holds(name):
    make, shape = NETS[name]
    model = make()
    x = torch.zeros(shape, dtype=next(model.parameters()).dtype)
    assert sc.measure(model, x).memory_bytes == bytes_of_a_real_run(model, x)


def test_memory_counted_by_hand():
    net = nn.Sequential(nn.Linear(4, 100), nn.ReLU(inplace=True), nn.Linear(100, 2))
    weights = 4 * (4 * 100 + 100 + 100 * 2 + 2)
    held_in_the_last = 4 * 3 * (4 + 100 + 2)  # the input, the hidden layer and the output, batch of 3
    assert sc.measure(net, torch.zeros(3, 4)).memory_bytes == weights + held_in_the_last


def test_memory_grows_with_the_batch_and_its_weights_do_not():
    one, ten = (sc.measure(Branches(), torch.zeros(n, 3, 8, 8)) for n in (1, 10))
    assert one.size_bytes == ten.size_bytes
    assert ten.memory_bytes - ten.size_bytes == 10 * (one.memory_bytes - one.size_bytes)


@pytest.mark.parametrize("name", ["residual", "branches", "heads"])
@pytest.mark.parametrize("ratio", [0.25, 0.6])
def test_meters_predict_what_the_cut_model_costs(name, ratio):
    make, shape = NETS[name]
    result = sc.prune(make(), torch.zeros(shape), ratio=ratio, min_keep=0)
    groups = result.groups
    kept = {groups[group].axis: len(indices) for group, indices in result.plan.keep.items()}
    assert memory_meter(groups).at(kept) == result.after.memory_bytes
    assert size_meter(groups).at(kept) == result.after.size_bytes
    assert params_meter(groups).at(kept) == result.after.params == groups.params(kept)
    assert macs_meter(groups).at(kept) == result.after.macs == groups.macs(kept)


def test_a_meter_computes_only_what_changed():
    axes = [Axis(10) for _ in range(50)]
    asked = []

    def term(axis):
        return Term(lambda kept: asked.append(axis) or float(kept.get(axis, 10)), frozenset([axis]))

    meter = CostMeter([term(axis) for axis in axes])
    asked.clear()
    assert meter.at({axes[3]: 4}) == 494
    assert meter.at({axes[3]: 4, axes[7]: 5}) == 489
    assert meter.at({axes[7]: 5}) == 495
    assert meter.at({}) == 500
    assert asked == [axes[3], axes[7], axes[3], axes[7]]


@pytest.mark.parametrize(
    "turn",
    [
        lambda x: x.transpose(1, 2),
        lambda x: x.swapaxes(1, 2),
        lambda x: x.moveaxis(1, 2),
        lambda x: x.mT,
        lambda x: x.adjoint(),
    ],
)
def test_a_reshape_behind_a_turn_is_a_copy_however_it_is_turned(turn):
    class Turned(nn.Module):
        def forward(self, x):
            return turn(x * 2).reshape(len(x), -1).sum()

    groups = sc.couple(Turned(), torch.zeros(2, 3, 5))
    assert activation_bytes(groups) == 4 * (30 + 30 + 30)
