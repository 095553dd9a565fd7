"""Running statistics become those of the cut model's own activations, over all data."""

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import CaptureError, RequestError


class Net(nn.Module):
    shape = (3, 9, 9)

    def __init__(self):
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.two, self.after = nn.Conv2d(8, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.head, self.last = nn.Linear(6, 4), nn.BatchNorm1d(4, momentum=None)

    def forward(self, x):
        x = torch.relu(self.norm(self.one(x)))
        x = torch.relu(self.after(self.two(x)))
        return self.last(self.head(x.mean((2, 3))))


def made(net=Net):
    torch.manual_seed(0)
    model = net().double()
    with torch.no_grad():
        for _ in range(20):
            model(torch.randn(16, *Net.shape).double())
    return model.eval()


def pruned(model):
    return sc.prune(model, torch.zeros(1, *Net.shape).double(), ratio=0.5, scope="local")


def expected(model, x, names=("after", "last")):
    """Statistics by hand: one layer after the other, over everything at once."""
    found = {}
    with torch.no_grad():
        for name in names:
            seen = []
            layer = getattr(model, name)
            handle = layer.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
            model(x)
            handle.remove()
            values = seen[0].transpose(0, 1).flatten(1)
            layer.running_mean.copy_(values.mean(1))
            layer.running_var.copy_(values.var(1))
            found[name] = layer.running_mean.clone(), layer.running_var.clone()
    return found


@pytest.mark.parametrize("sizes", [[24], [8, 8, 8], [11, 12, 1], [1] * 24])
def test_statistics_are_those_over_every_value_whatever_the_batches(sizes):
    model = made()
    result = pruned(model)
    x = torch.randn(24, *Net.shape).double() * 2 + 1
    data = list(x.split(sizes))
    # From eight batches on the last one only measures.
    used = x if len(data) < 8 else x[:-1]
    better = sc.recover(result, data, ["batch-norm"])
    for name, (mean, variance) in expected(result.model, used).items():
        layer = getattr(better.model, name)
        torch.testing.assert_close(layer.running_mean, mean)
        torch.testing.assert_close(layer.running_var, variance)


def test_layers_that_no_lost_channel_reaches_keep_the_statistics_of_all_training_data():
    model = made()
    result = pruned(model)
    better = sc.recover(result, [torch.randn(8, *Net.shape).double()], ["batch-norm"])
    assert [recovery.layer for recovery in better.recovered] == ["after", "last"]
    assert torch.equal(better.model.norm.running_var, result.model.norm.running_var)


def test_flags_momentum_and_the_given_models_stay():
    model = made().train()
    model.after.eval()
    result = pruned(model)
    before = [
        {name: held.clone() for name, held in net.state_dict().items()} for net in (model, result.model)
    ]
    better = sc.recover(result, [torch.randn(8, *Net.shape).double()] * 2, ["batch-norm"]).model
    for net, state in zip((model, result.model), before, strict=True):
        assert all(torch.equal(held, state[name]) for name, held in net.state_dict().items())
    assert better.training
    assert not better.after.training
    assert (better.after.momentum, better.last.momentum) == (0.1, None)
    assert all(
        torch.equal(held, getattr(result.model, name.split(".")[0]).get_parameter(name.split(".")[1]))
        for name, held in better.named_parameters()
    )


def test_it_brings_back_what_a_shift_of_the_inputs_took():
    model = made()
    result = pruned(model)
    with torch.no_grad():
        result.model.two.weight.mul_(3)
    data = [torch.randn(16, *Net.shape).double() for _ in range(3)]
    better = sc.recover(result, data, ["batch-norm"])
    # A scale of the weights is no matter behind fresh statistics.
    plain = sc.recover(pruned(model), data, ["batch-norm"])
    with torch.no_grad():
        torch.testing.assert_close(better.model(data[0]), plain.model(data[0]), rtol=1e-4, atol=1e-4)


def test_one_value_in_each_channel_has_no_variance():
    model = made()
    better = sc.recover(pruned(model), [torch.randn(1, *Net.shape).double()], ["batch-norm"])
    last = better.recovered[-1]
    assert str(last) == "batch-norm last: approximate, left alone: one value in each channel has no variance"
    assert torch.equal(better.model.last.running_var, model.last.running_var)


def test_a_layer_that_is_called_twice_takes_both_calls():
    class Twice(Net):
        def forward(self, x):
            x = torch.relu(self.norm(self.one(x)))
            y = self.after(self.two(x))
            return self.last(self.head((y + self.after(self.two(x + 1))).mean((2, 3))))

    model = made(Twice)
    result = pruned(model)
    x = torch.randn(16, *Net.shape).double()
    better = sc.recover(result, [x], ["batch-norm"])
    with torch.no_grad():
        hidden = torch.relu(result.model.norm(result.model.one(x)))
        values = torch.cat([result.model.two(hidden), result.model.two(hidden + 1)])
    values = values.transpose(0, 1).flatten(1)
    torch.testing.assert_close(better.model.after.running_mean, values.mean(1))
    torch.testing.assert_close(better.model.after.running_var, values.var(1))


def test_a_layer_that_is_also_called_where_nothing_was_lost_takes_both_calls():
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.lost, self.whole = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 3, 1), nn.Conv2d(3, 3, 1)
            self.norm, self.behind = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x):
            one = self.lost(torch.relu(self.a(x)))
            return torch.cat([self.behind(self.norm(5 * self.whole(x))), self.norm(one)], 1)

    model = made(Joined)
    result = pruned(model)
    x = torch.randn(32, *Net.shape).double()
    better = sc.recover(result, [x], ["batch-norm"])
    with torch.no_grad():
        cut = result.model
        values = torch.cat([cut.lost(torch.relu(cut.a(x))), 5 * cut.whole(x)]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(better.model.norm.running_mean, values.mean(1))
    torch.testing.assert_close(better.model.norm.running_var, values.var(1))
    counts = {one.layer: one.detail.split()[4] for one in better.recovered}
    # What lies behind the other call sees new statistics, too.
    assert counts == {"norm": f"{values.shape[1]:,}", "behind": f"{values.shape[1] // 2:,}"}


class Stream(nn.Module):
    """A branch whose input and output lie on one axis, as all those of a residual stream."""

    def __init__(self, branch):
        super().__init__()
        self.stem, self.branch, self.head = nn.Conv2d(3, 8, 3), branch, nn.Conv2d(8, 3, 1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.head(x + self.norm(self.branch(x)))


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_layer_behind_a_convolution_of_the_stream_is_reached(kind):
    model = made(lambda: Stream(kind(8, 8, 3, padding=1)))
    result = pruned(model)
    x = torch.randn(32, *Net.shape).double()
    better = sc.recover(result, [x], ["batch-norm"])
    assert [recovery.layer for recovery in better.recovered] == ["norm"]
    with torch.no_grad():
        seen = result.model.branch(torch.relu(result.model.stem(x)))
    torch.testing.assert_close(better.model.norm.running_mean, seen.mean((0, 2, 3)))


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_depthwise_convolution_of_the_stream_loses_nothing(kind):
    model = made(lambda: Stream(kind(8, 8, 3, padding=1, groups=8)))
    assert sc.recover(pruned(model), [torch.randn(8, *Net.shape).double()], ["batch-norm"]).recovered == ()


def test_infinite_activations_are_refused_by_name():
    data = [torch.full((2, *Net.shape), float("inf")).double()]
    with pytest.raises(CaptureError, match=r"what goes into after is not finite on batch 0"):
        sc.recover(pruned(made()), data, ["batch-norm"])


def test_no_data_is_refused():
    with pytest.raises(RequestError, match="recovery step 'batch-norm' needs data"):
        sc.recover(pruned(made()), steps=["batch-norm"])
