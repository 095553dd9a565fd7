import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from witness import Witness

import secateur as sc
from secateur.costs import Latency, latency
from secateur.errors import RequestError


class Watching(nn.Module):
    """Remembers how it was called."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
        self.calls = Witness()

    def forward(self, x, y=None):
        inference = torch.is_inference_mode_enabled()
        self.calls.note((self.training, self.inner.training, torch.get_num_threads(), inference, y is None))
        return self.inner(x)


def test_the_pass_is_timed_in_eval_mode_with_the_asked_threads():
    model = Watching()
    timing = latency(model, torch.zeros(5, 4), repeats=4, warmup=2, threads=2)
    assert model.calls.seen == [(False, False, 2, True, True)] * 6
    assert (timing.repeats, timing.threads, timing.batch, timing.device) == (4, 2, 5, "cpu")


def test_modes_and_threads_are_given_back():
    model = Watching().train()
    model.inner[1].eval()
    threads = torch.get_num_threads()
    latency(model, torch.zeros(1, 4), repeats=3, threads=threads + 1)
    assert (model.training, model.inner.training, model.inner[0].training) == (True, True, True)
    assert model.inner[1].training is False
    assert torch.get_num_threads() == threads


def test_modes_and_threads_are_given_back_after_an_error():
    model = Watching().train()
    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        latency(model, torch.zeros(1, 5), threads=threads + 1)
    assert model.training
    assert torch.get_num_threads() == threads


def test_quartiles_are_ordered_and_printed():
    timing = latency(Watching(), torch.zeros(1, 4), repeats=11)
    assert 0 < timing.lower_ms <= timing.median_ms <= timing.upper_ms
    assert str(Latency(1.5, 1.25, 2.0, 30, 1, 8, "cpu")) == (
        "1.5 ms (quartiles 1.25 to 2, 30 repeats, batch 8, 1 threads, cpu)"
    )


def test_a_limit_still_times_three_passes():
    assert latency(Watching(), torch.zeros(1, 4), repeats=1000, limit_s=0).repeats == 3


def test_threads_none_leaves_torch_alone():
    model = Watching()
    latency(model, torch.zeros(1, 4), repeats=3, threads=None)
    assert {call[2] for call in model.calls.seen} == {torch.get_num_threads()}


@pytest.mark.parametrize("inputs", [(torch.zeros(2, 4), torch.zeros(1)), {"x": torch.zeros(2, 4), "y": 1}])
def test_inputs_may_be_a_tuple_or_a_dict(inputs):
    model = Watching()
    assert latency(model, inputs, repeats=3).batch == 2
    assert model.calls.seen[0][-1] is False


@pytest.mark.parametrize(
    ("options", "message"), [({"repeats": 2}, "repeats is 2"), ({"threads": 0}, "threads is 0")]
)
def test_too_few_passes_or_threads_are_refused(options, message):
    with pytest.raises(RequestError, match=message):
        latency(Watching(), torch.zeros(1, 4), **options)


def test_the_cost_is_counted_by_hand():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 5))
    cost = sc.measure(net, torch.zeros(2, 3, 6, 6))
    assert cost.params == (3 * 9 * 8 + 8) + 16 + (288 * 5 + 5)
    assert cost.macs == 2 * (36 * 3 * 9 * 8 + 288 * 5)
    assert cost.size_bytes == 4 * (cost.params + 16) + 8  # running statistics, and an int64 counter


def test_tied_weights_count_once_and_work_twice():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.two(self.one(x))

    cost = sc.measure(Tied(), torch.zeros(1, 6))
    assert (cost.params, cost.macs, cost.size_bytes) == (36, 72, 144)


def test_bytes_follow_the_dtype():
    net = nn.Linear(4, 2)
    assert sc.measure(net, torch.zeros(1, 4)).size_bytes == 40
    assert sc.measure(net.double(), torch.zeros(1, 4).double()).size_bytes == 80


def test_macs_agree_with_torch_after_a_cut():
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3, stride=2), nn.Flatten(), nn.Linear(72, 4)
    )
    x = torch.zeros(1, 3, 9, 9)
    result = sc.prune(net, x, ratio=0.5)
    with FlopCounterMode(display=False) as counter:
        result.model(x)
    assert result.after.macs * 2 == counter.get_total_flops()
    assert result.after == sc.measure(result.model, x)


def test_measuring_changes_nothing():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    sc.measure(net, torch.randn(2, 1, 6, 6))
    latency(net, torch.randn(2, 1, 6, 6), repeats=3)
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
