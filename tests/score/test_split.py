"""Gradients by gates: batches fall into samples by what the model does, losses are the model's own."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateur as sc
from secateur.capture.batches import Samples
from secateur.errors import RequestError
from secateur.score import score

SAMPLEWISE = ["jacobian", "fisher", "obs"]


def _scores(net, example, data, criterion="jacobian"):
    raw = sc.criterion(criterion, normalise="none")
    return score(net, sc.couple(net, example), raw, data=Samples(data, net, example)).by_group


class Masked(nn.Module):
    """A mask that all samples share, as long as a batch may be."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x, mask):
        return self.b(mask @ self.a(x).relu()).mean(1)


class Placed(Masked):
    """The shared input comes first."""

    def forward(self, place, x):
        return self.b(self.a(x + place).relu()).mean(1)


class Steps(nn.Module):
    """A recurrence with time before samples."""

    def __init__(self, batch_first):
        super().__init__()
        self.batch_first = batch_first
        self.lstm, self.b = nn.LSTM(4, 6, batch_first=batch_first), nn.Linear(6, 3)

    def forward(self, x):
        found = self.lstm(x)[0]
        return self.b(found[:, -1] if self.batch_first else found[-1])


@pytest.mark.parametrize("name", SAMPLEWISE)
def test_a_mask_as_long_as_the_batch_is_not_cut(name):
    torch.manual_seed(0)
    net, x, mask = Masked(), torch.randn(16, 8, 4), torch.ones(8, 8).tril()
    labels = torch.randint(0, 3, (16,))
    found = [
        _scores(
            net,
            (x[:1], mask),
            [(some, mask, of) for some, of in zip(x.split(n), labels.split(n), strict=True)],
            name,
        )
        for n in (16, 8, 1)
    ]
    for other in found[1:]:
        torch.testing.assert_close(other["a"], found[0]["a"])


@pytest.mark.parametrize("name", [*SAMPLEWISE, "taylor", "hessian"])
def test_a_first_input_without_samples_is_shared(name):
    torch.manual_seed(0)
    net, place, x = Placed(), torch.randn(1, 5, 4), torch.randn(12, 5, 4)
    labels = torch.randint(0, 3, (12,))
    found = [
        _scores(
            net,
            (place, x[:1]),
            [(place, some, of) for some, of in zip(x.split(n), labels.split(n), strict=True)],
            name,
        )
        for n in (12, 5, 1)
    ]
    for other in found[1:]:
        torch.testing.assert_close(other["a"], found[0]["a"])


@pytest.mark.parametrize("name", SAMPLEWISE)
def test_samples_in_the_second_dim_are_found(name):
    torch.manual_seed(0)
    first, second = Steps(True).eval(), Steps(False).eval()
    second.load_state_dict(first.state_dict())
    x, labels = torch.randn(6, 6, 4), torch.randint(0, 3, (6,))
    expected = _scores(first, x[:1], [(x, labels)], name)
    turned = x.transpose(0, 1).contiguous()
    found = _scores(second, turned[:, :1], [(turned, labels)], name)
    for group, scores in expected.items():
        torch.testing.assert_close(found[group], scores)


def test_a_model_that_mixes_samples_is_refused_and_single_samples_are_taken():
    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x):
            found = self.a(x).relu()
            return self.b(found - found.mean(0))

    torch.manual_seed(0)
    net, x, labels = Mixing(), torch.randn(4, 4), torch.randint(0, 3, (4,))
    with pytest.raises(RequestError, match="batch 0 of the data does not fall into samples"):
        _scores(net, x[:2], [(x, labels)])
    assert _scores(net, x[:2], list(zip(x.split(1), labels.split(1), strict=True)))


@pytest.mark.parametrize("size", [1, 3])
def test_labels_that_do_not_count_do_not_weigh(size):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    x, labels = torch.randn(6, 5, 4), torch.randint(0, 3, (6, 5))
    labels[0, 1:] = -100
    labels[4, :2] = -100
    for name in ("taylor", "hessian"):
        whole = _scores(net, x[:1], [(x, labels)], name)["0"]
        parts = list(zip(x.split(size), labels.split(size), strict=True))
        torch.testing.assert_close(_scores(net, x[:1], parts, name)["0"], whole)


def test_a_language_model_takes_its_own_loss():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    torch.manual_seed(0)
    net, ids = transformers.LlamaForCausalLM(config).eval(), torch.randint(0, 32, (4, 9))
    example = {"input_ids": ids[:1]}
    (group,) = [group for group in sc.couple(net, example).prunable if "gate_proj" in group.name]
    for name in ("taylor", "jacobian"):
        found = _scores(net, example, [{"input_ids": ids, "labels": ids}], name)[group.name]
        rows = []
        for some in ids.split(4 if name == "taylor" else 1):
            net.zero_grad()
            net(input_ids=some, labels=some).loss.backward()
            entries = {one: held * held.grad for one, held in net.named_parameters() if "mlp" in one}
            gate, up, down = (
                next(entry for one, entry in entries.items() if part in one)
                for part in ("gate", "up", "down")
            )
            rows.append(gate.sum(1) + up.sum(1) + down.sum(0))
        together = torch.stack(rows).detach().double()
        expected = together.mean(0).abs() if name == "taylor" else together.square().mean(0)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", ["taylor", "fisher", "hessian"])
def test_an_entry_in_two_slices_of_a_channel_counts_once(name):
    class Stream(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.w, self.o = (nn.Linear(n, m, bias=False) for n, m in ((4, 6), (6, 6), (6, 2)))

        def forward(self, x):
            h = self.a(x)
            return self.o(h + self.w(h))

    torch.manual_seed(0)
    net, x, labels = Stream().double(), torch.randn(20, 4, dtype=torch.float64), torch.randint(0, 2, (20,))
    found = _scores(net, x[:1], [(x, labels)], name)["a"]
    held = {one: parameter.detach() for one, parameter in net.named_parameters()}

    def loss(gates, items=(x, labels)):
        both = gates[:, None] * gates * (1 - torch.eye(6)) + torch.diag(gates)
        changed = {"a.weight": gates[:, None], "w.weight": both, "o.weight": gates}
        changed = {one: held[one] * gate for one, gate in changed.items()}
        return F.cross_entropy(torch.func.functional_call(net, changed, (items[0],)), items[1])

    ones = torch.ones(6, dtype=torch.float64)
    if name == "taylor":
        expected = torch.func.grad(loss)(ones).abs()
    elif name == "hessian":
        expected = 0.5 * torch.func.jacrev(torch.func.jacrev(loss))(ones).diagonal().abs()
    else:
        rows = []
        for items in zip(x.split(1), labels.split(1), strict=True):
            net.zero_grad()
            F.cross_entropy(net(items[0]), items[1]).backward()
            p = {one: (held * held.grad).square() for one, held in net.named_parameters()}
            square = p["w.weight"].sum(0) + p["w.weight"].sum(1) - p["w.weight"].diagonal()
            rows.append(p["a.weight"].sum(1) + square + p["o.weight"].sum(0))
        expected = 0.5 * torch.stack(rows).mean(0)
    torch.testing.assert_close(found, expected)


def test_half_precision_and_autocast_change_little():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(0.3)
    x, labels = torch.randn(16, 32, 64), torch.randint(0, 64, (16, 32))
    expected = _scores(net, x[:1], [(x, labels)], "fisher")["0"]
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(_scores(net, x[:1], [(x, labels)], "fisher")["0"], expected)
    half = _scores(net.half(), x[:1].half(), [(x.half(), labels)], "fisher")["0"]
    assert half.min() > 0
    torch.testing.assert_close(half, expected, rtol=0.05, atol=0)


def test_an_integer_parameter_has_no_gradient():
    class Quantised(nn.Module):
        def __init__(self):
            super().__init__()
            self.wq = nn.Parameter(torch.randint(-9, 9, (8, 4), dtype=torch.int8), requires_grad=False)
            self.b = nn.Linear(8, 3)

        def forward(self, x):
            return self.b((x @ (self.wq.float() / 9).T).relu())

    net, x = Quantised(), torch.randn(6, 4)
    assert _scores(net, x[:1], [(x, torch.randint(0, 3, (6,)))])


def test_outputs_whose_class_dim_is_unclear_are_refused():
    net = nn.Sequential(nn.Conv2d(2, 6, 1), nn.ReLU(), nn.Conv2d(6, 8, 1))
    x, labels = torch.randn(2, 2, 8, 8), torch.randint(0, 8, (2, 8, 8))
    with pytest.raises(RequestError, match="in their second or in their last dim"):
        _scores(net, x, [(x, labels)], "taylor")
    with pytest.raises(RequestError, match="hold one class"):
        _scores(
            nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1)),
            torch.zeros(1, 3),
            [(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))],
            "taylor",
        )
