"""A replay computes what the model computes, stops where asked to, and forgets what is not read again."""

import nets_deep
import pytest
import torch
import torchvision
from torch import nn

from secateur.capture.recording import capture
from secateur.capture.replay import Replay, record_tape
from secateur.errors import PathError


class InPlace(nn.Module):
    """Writes in place into what others read, and into its input."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        y = self.one(x)
        z = y.detach()
        z += 1
        y[:, 0] = 0
        x.mul_(2)
        return self.two(y).relu_() + x


class Kept(nn.Module):
    """Reads a tensor that its Python holds."""

    def __init__(self):
        super().__init__()
        self.held = torch.ones(3)

    def forward(self, x):
        return x * self.held


def last(replay):
    replay.advance(len(replay.tape.calls))
    return replay.results[0]


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (InPlace, (2, 4)),
        (Kept, (2, 3)),
        (nets_deep.SmallResNet, (2, 3, 16, 16)),
        (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 5, 8)),
        (lambda: torchvision.models.mobilenet_v2(), (2, 3, 32, 32)),
    ],
)
def test_a_replay_computes_what_the_model_computes(make, shape):
    torch.manual_seed(0)
    model = make().eval()
    x = torch.randn(shape)
    graph = capture(model, torch.zeros(1, *shape[1:]))
    tape = record_tape(model, x, graph)
    before = x.clone()
    replay = Replay(tape, model, x)
    got = last(replay)
    assert torch.equal(x, before)
    with torch.no_grad():
        expected = model(x.clone())
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    assert not replay.values


def test_a_tape_serves_other_batches_and_other_weights():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    tape = record_tape(model, torch.zeros(5, 3), capture(model, torch.zeros(1, 3)))
    assert tape.is_general
    x = torch.randn(5, 3)
    replay = Replay(tape, model, x)
    replay.advance(2)
    with torch.no_grad():
        model[2].weight.mul_(2)
        torch.testing.assert_close(replay.call(2), model(x))
        assert replay.position == 2
        torch.testing.assert_close(last(replay), model(x))
    held = Kept()
    assert not record_tape(held, torch.zeros(5, 3), capture(held, torch.zeros(1, 3))).is_general


def test_the_bytes_between_calls_are_those_of_what_is_still_read():
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)).double()
    x = torch.zeros(5, 3).double()
    tape = record_tape(model, x, capture(model, x[:1]))
    replay = Replay(tape, model, x)
    for index, expected in enumerate(tape.bytes_before):
        replay.advance(index)
        memories = {
            held.untyped_storage().data_ptr(): held.untyped_storage().nbytes()
            for held in replay.values.values()
        }
        assert sum(memories.values()) == expected, index


def test_another_path_is_refused():
    class Fork(nn.Module):
        def forward(self, x):
            return x.relu() if x.shape[0] == 1 else x.tanh()

    model = Fork()
    with pytest.raises(PathError, match="another path"):
        record_tape(model, torch.zeros(2, 3), capture(model, torch.zeros(1, 3)))


def test_another_number_of_inputs_is_refused():
    class Both(nn.Module):
        def forward(self, x, y):
            return x + y

    x = torch.ones(1, 3)
    torch.testing.assert_close(
        last(Replay(record_tape(Both(), (x, x), capture(Both(), (x, x))), Both(), (x, x))), x + x
    )
    graph = capture(Both(), (x, x), "real")
    with pytest.raises(PathError, match="2 different tensors, 1 in the record"):
        record_tape(Both(), (x, x.clone()), graph)
