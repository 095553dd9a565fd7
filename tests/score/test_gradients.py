"""Scores by gradients are those of brute force: gates, single samples, leaving a channel out."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

import secateur as sc
from secateur.capture import capture
from secateur.capture.batches import Samples
from secateur.coupling import couple_graph
from secateur.errors import CaptureError, RequestError
from secateur.score import choose, score, singles, view_group
from secateur.score.statistics import Statistics

EXAMPLE = torch.zeros(1, 2, 5, 5, dtype=torch.float64)


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 5, 3),
        nn.BatchNorm2d(5),
        nn.Tanh(),
        nn.Conv2d(5, 4, 3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(4, 3),
    )
    nn.init.normal_(net[1].weight)
    nn.init.normal_(net[1].bias)
    return net.double().eval()


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(7, 2, 5, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (7,), generator=generator)
    return list(zip(inputs.split(3), labels.split(3), strict=True))


def _score(net, criterion, data, example=EXAMPLE):
    groups = couple_graph(capture(net, example))
    raw = choose(criterion, normalise="none")
    return score(net, groups, raw, data=Samples(data, net, example)).by_group


@pytest.mark.parametrize("name", ["taylor", "jacobian", "fisher", "hessian", "obs"])
def test_groups_compare_by_their_means(name, net, data):
    groups = sc.couple(net, EXAMPLE)
    found = score(net, groups, name, data=Samples(data, net, EXAMPLE)).by_group
    for group, raw in _score(net, name, data).items():
        torch.testing.assert_close(found[group], raw / raw.mean())


def _gated(net, inputs, labels, loss=F.cross_entropy):
    """The loss as a function of the gates of the first layer's channels, multiplied into their slices."""
    held = dict(net.named_parameters())

    def run(gates):
        changed = {
            "0.weight": held["0.weight"] * gates[:, None, None, None],
            "0.bias": held["0.bias"] * gates,
            "1.weight": held["1.weight"] * gates,
            "1.bias": held["1.bias"] * gates,
            "3.weight": held["3.weight"] * gates[None, :, None, None],
        }
        return loss(functional_call(net, {**held, **changed}, (inputs,)), labels)

    return run


ONES = torch.ones(5, dtype=torch.float64)


def _jacobian(net, data, loss=F.cross_entropy):
    """One row for each sample: the derivatives by the gates, by autograd."""
    rows = [
        torch.autograd.functional.jacobian(_gated(net, inputs[at : at + 1], labels[at : at + 1], loss), ONES)
        for inputs, labels in data
        for at in range(len(inputs))
    ]
    return torch.stack(rows)


def test_taylor_is_the_gradient_by_gates(net, data):
    torch.testing.assert_close(_score(net, "taylor", data)["0"], _jacobian(net, data).mean(0).abs())


def test_jacobian_squares_each_samples_whole_sum(net, data):
    torch.testing.assert_close(_score(net, "jacobian", data)["0"], _jacobian(net, data).square().mean(0))


def test_fisher_squares_every_entry(net, data):
    total = torch.zeros(5, dtype=torch.float64)
    for inputs, labels in data:
        for at in range(len(inputs)):
            found = torch.autograd.grad(
                F.cross_entropy(net(inputs[at : at + 1]), labels[at : at + 1]), list(net.parameters())
            )
            entries = dict(zip(dict(net.named_parameters()), found, strict=True))
            for name, gradient in entries.items():
                squares = (net.get_parameter(name) * gradient).square().detach()
                if name in ("0.weight", "0.bias", "1.weight", "1.bias"):
                    total += squares.reshape(5, -1).sum(1)
                if name == "3.weight":
                    total += squares.sum((0, 2, 3))
    torch.testing.assert_close(_score(net, "fisher", data)["0"], 0.5 * total / 7)


def test_hessian_is_exact_where_there_are_few_channels(net, data):
    inputs, labels = (torch.cat(part) for part in zip(*data, strict=True))
    exact = torch.autograd.functional.hessian(_gated(net, inputs, labels), ONES)
    torch.testing.assert_close(_score(net, "hessian", data)["0"], 0.5 * exact.diagonal().abs())


def test_many_probes_come_near_the_exact_curvature(net, data):
    groups = couple_graph(capture(net, EXAMPLE))
    found = Statistics(net, groups, Samples(data, net, EXAMPLE)).differentiator
    exact = found.curvature(Samples(data, net, EXAMPLE), probes=16, seed=0)["0"]
    few, many = (
        (found.curvature(Samples(data, net, EXAMPLE), probes=count, seed=0)["0"] - exact).norm()
        for count in (2, 8)
    )
    assert 0 < many < exact.norm()
    assert few > 0


def test_obs_is_what_is_lost_when_the_other_gates_adapt(net, data):
    rows = _jacobian(net, data)
    matrix = rows.T @ rows / len(rows)
    damping = 1e-3 * matrix.diagonal().mean()
    damped = matrix + damping * torch.eye(5, dtype=torch.float64)
    for channel, found in enumerate(_score(net, "obs", data)["0"]):
        others = [at for at in range(5) if at != channel]
        change = -torch.ones(5, dtype=torch.float64)
        change[others] = torch.linalg.solve(damped[others][:, others], damped[others, channel])
        torch.testing.assert_close(found, 0.5 * (change @ damped @ change - damping))


def test_the_sign_and_size_of_a_left_out_channel_agree_with_taylor():
    """In a network of ReLUs, slices that make and slices that read a channel change the loss alike."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        net[2].weight *= 1e-4  # small, so that the first order is all there is
        net[2].bias *= 5
    inputs, labels = torch.randn(20, 3, dtype=torch.float64), torch.randint(0, 3, (20,))
    example = torch.zeros(1, 3, dtype=torch.float64)
    groups = couple_graph(capture(net, example))
    statistics = Statistics(net, groups, Samples([(inputs, labels)], net, example))
    signed = statistics.of(groups["0"]).gradients.mean
    with torch.no_grad():
        whole = F.cross_entropy(net(inputs), labels)
        for channel in range(8):
            kept = net[2].weight[:, channel].clone()
            net[2].weight[:, channel] = 0
            change = F.cross_entropy(net(inputs), labels) - whole
            net[2].weight[:, channel] = kept
            torch.testing.assert_close(change, -signed[channel] / 2, rtol=1e-2, atol=1e-12)
    assert {-1.0, 1.0} <= set(signed.sign().tolist())


@pytest.mark.parametrize("name", ["jacobian", "fisher", "obs"])
def test_a_model_that_vmap_cannot_transform_is_done_sample_by_sample(name, net, data, monkeypatch):
    quick = _score(net, name, data)

    def refuse(*args, **kwargs):
        raise RuntimeError("no batching rule")

    monkeypatch.setattr(singles, "vmap", refuse)
    slow = _score(net, name, data)
    for group, scores in quick.items():
        torch.testing.assert_close(slow[group], scores)


def test_samples_in_chunks_are_all_samples(net, data, monkeypatch):
    whole = _score(net, "jacobian", data)["0"]
    monkeypatch.setattr(singles, "_CHUNK_BYTES", 1)
    torch.testing.assert_close(_score(net, "jacobian", data)["0"], whole)


class Tokens(nn.Module):
    """Tied weights, an LSTM and attention, with several inputs."""

    def __init__(self):
        super().__init__()
        self.read = nn.Linear(6, 8)
        self.lstm = nn.LSTM(8, 10, batch_first=True)
        self.inner = nn.Linear(10, 12)
        self.mix = nn.TransformerEncoderLayer(12, 2, 16, batch_first=True, dropout=0.0)
        self.head = nn.Linear(12, 3)

    def forward(self, x, weight):
        found = self.inner(self.lstm(self.read(x))[0]).relu() * weight
        return {"logits": self.head(self.mix(found)).mean(1)}


@pytest.mark.parametrize("name", ["taylor", "jacobian", "fisher", "hessian", "obs"])
def test_recurrence_attention_and_dicts_are_differentiated(name):
    torch.manual_seed(0)
    net = Tokens().eval()
    example = (torch.zeros(1, 4, 6), torch.ones(1, 1, 1))
    data = [(torch.randn(3, 4, 6), torch.rand(3, 1, 1), torch.randint(0, 3, (3,)))]
    scores = _score(net, name, data, example)
    assert len(scores) >= 3
    assert all(found.max() > 0 for found in scores.values())


def test_without_labels_half_the_mean_square_of_the_outputs_is_differentiated(net, data):
    inputs = [batch for batch, _ in data]
    expected = _jacobian(net, data, loss=lambda output, _: 0.5 * output.square().mean()).mean(0).abs()
    torch.testing.assert_close(_score(net, "taylor", inputs)["0"], expected)


def test_real_targets_take_the_mean_squared_error(net, data):
    targets = [(inputs, torch.ones(len(inputs), 3, dtype=torch.float64)) for inputs, _ in data]
    expected = _jacobian(net, targets, loss=F.mse_loss).square().mean(0)
    torch.testing.assert_close(_score(net, "jacobian", targets)["0"], expected)


def test_a_loss_may_be_the_users(net, data):
    def margin(output, target):
        return F.multi_margin_loss(output, target)

    expected = _jacobian(net, data, loss=margin).mean(0).abs()
    torch.testing.assert_close(_score(net, choose("taylor", loss=margin), data)["0"], expected)


def test_a_callable_sees_gradients(net, data):
    def smallest(view):
        return view.gradients.mean.abs()

    own = sc.prune(net, EXAMPLE, ratio=0.5, criterion=smallest, data=data).plan.keep
    assert own == sc.prune(net, EXAMPLE, ratio=0.5, criterion="taylor", data=data).plan.keep


def test_weights_alone_have_no_gradients(net):
    groups = couple_graph(capture(net, EXAMPLE))
    with pytest.raises(RequestError, match="asks for activations or gradients of group 0, there is no data"):
        _ = view_group(groups["0"], net).gradients


def test_labels_that_do_not_fit_are_refused(net, data):
    wrong = [(inputs, torch.zeros(len(inputs), 7)) for inputs, _ in data]
    with pytest.raises(RequestError, match=r"labels of shape \[3, 7\] do not fit outputs of shape \[3, 3\]"):
        _score(net, "taylor", wrong)


def test_labels_with_some_batches_only_are_refused(net, data):
    with pytest.raises(RequestError, match="batch 1 of the data has no labels, those before it have some"):
        _score(net, "jacobian", [data[0], data[1][0]])


def test_gradients_that_are_not_finite_are_refused(net, data):
    data[1][0][0] = float("nan")
    with pytest.raises(CaptureError, match=r"gradients of group \d are NaN or infinite on batch 1"):
        _score(net, "fisher", data)


def test_a_loss_of_many_numbers_is_refused(net, data):
    with pytest.raises(RequestError, match=r"the loss is \[3\], not one number"):
        _score(net, choose("taylor", loss=lambda output, target: output.sum(1)), data)


def test_a_loss_without_gradient_is_refused(net, data):
    with pytest.raises(RequestError, match="does not depend on the parameters"):
        _score(net, choose("taylor", loss=lambda output, target: torch.zeros(())), data)
