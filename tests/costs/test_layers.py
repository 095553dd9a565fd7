"""Layer times: interpolation that is right where it can be, a table that is not measured twice."""

from math import ceil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import secateur as sc
from secateur.costs import layers
from secateur.costs.grid import block_ends, grid
from secateur.costs.layers import LayerTable, layer_times, table_from_json, table_to_json


@given(st.integers(1, 600), st.floats(0, 1), st.sampled_from([0, 8, 16]))
def test_weights_sum_to_one_and_points_lie_in_the_layer(whole, share, block):
    size = max(1, round(share * whole))
    points = grid(size, whole, block)
    assert sum(weight for _, weight in points) == pytest.approx(1)
    assert all(1 <= point <= whole and weight > 0 for point, weight in points)


@given(st.integers(2, 600), st.floats(0, 1), st.sampled_from([0, 8, 16]))
def test_a_straight_line_is_interpolated_exactly(whole, share, block):
    size = max(1, round(share * whole))
    at = sum(weight * (3 * point + 2) for point, weight in grid(size, whole, block))
    assert at == pytest.approx(3 * size + 2)


@given(st.integers(1, 96), st.sampled_from([16]))
def test_stairs_are_interpolated_exactly(size, block):
    at = sum(weight * ceil(point / block) for point, weight in grid(size, 96, block))
    assert at == pytest.approx(ceil(size / block))


@given(st.integers(1, 5000), st.sampled_from([8, 16]))
def test_few_block_ends_are_measured_and_the_whole_is_one(whole, block):
    ends = block_ends(whole, block)
    assert ends[-1] == whole
    assert len(ends) <= 8
    assert ends == sorted(set(ends))
    assert all(end % block == 0 for end in ends[:-1])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32)
        self.deep, self.two = nn.Conv2d(32, 32, 3, groups=32), nn.Conv2d(32, 24, 1)
        self.last = nn.Linear(24 * 4, 5)

    def forward(self, x):
        x = self.deep(F.relu(self.norm(self.one(x))))
        return self.last(F.adaptive_avg_pool2d(self.two(x), 2).flatten(1))


X = torch.zeros(2, 3, 10, 10)


@pytest.fixture(scope="module")
def timed():
    groups = sc.couple(Net(), X)
    table = LayerTable()
    found, left_out = layer_times(groups, table, 16)
    return groups, table, found, left_out


def test_every_call_that_computes_is_timed(timed):
    _, _, found, left_out = timed
    assert [layer.node.op.removeprefix("aten.") for layer in found] == [
        *("conv2d", "batch_norm", "relu", "conv2d", "conv2d", "adaptive_avg_pool2d", "linear")
    ]
    assert left_out == {}
    assert all(layer.at({}) > 0 for layer in found)


def test_calls_get_the_sizes_that_a_cut_leaves(timed, monkeypatch):
    groups, *_ = timed
    one, two = groups["one"].axis, groups["two"].axis
    asked = []
    monkeypatch.setattr(layers, "_time", lambda call, device, **_: asked.append(call) or 1.0)
    table = LayerTable()
    layer_times(groups, table, 16)
    fresh, _ = layer_times(groups, table, 16)
    asked.clear()
    for layer in fresh:
        layer.at({one: 16, two: 12})
    shapes = {call.op.removeprefix("aten."): call.args for call in asked if "conv" not in call.op}
    assert shapes["batch_norm"]["input"].shape == (2, 16, 8, 8)
    assert shapes["linear"]["weight"].shape[1] in (48, 49, 96)
    deep = next(call.args for call in asked if call.args.get("groups", 1) > 1)
    assert (deep["groups"], deep["weight"].shape) == (16, (16, 1, 3, 3))


def test_what_is_known_is_not_measured_again(timed):
    groups, table, found, _ = timed
    kept = {groups["one"].axis: 11, groups["two"].axis: 20}
    times = [layer.at(kept) for layer in found]
    again = LayerTable(table_from_json(table_to_json(table.entries, {"cpu": "x"}), {"cpu": "x"}))
    fresh, _ = layer_times(groups, again, 16)
    assert [layer.at(kept) for layer in fresh] == pytest.approx(times, abs=1e-5)
    assert again.measured == 0


def test_the_layout_and_the_type_are_part_of_the_key(timed):
    groups, table, *_ = timed
    other = LayerTable(table.entries, channels_last=True)
    layer_times(groups, other, 16)
    assert other.measured > 0
    assert all("float32[" in key for key in table.entries)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b'{"machine": {}, "ms": {}}', b'{"machine": {"cpu": "x"}}']
)
def test_a_damaged_or_foreign_table_holds_nothing(text):
    assert table_from_json(text, {"cpu": "x"}) == {}


def test_a_call_that_cannot_run_alone_is_named():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            h = self.one(x)
            return self.two(h) + torch.linalg.inv(torch.eye(2) + x[:2, :2] * 0)

    groups = sc.couple(Odd(), torch.zeros(2, 4))
    found, left_out = layer_times(groups, LayerTable(), 16)
    assert [layer.node.op for layer in found].count("aten.linear") == 2
    assert any("linalg" in node and "singular" in why for node, why in left_out.items())
