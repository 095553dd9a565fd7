import pytest
import torch
from torch import nn

import secateur as sc
from secateur.errors import RequestError
from secateur.train import Distillation, FitConfig, fit, matching_channels
from secateur.train.features import channel_dim

X = torch.zeros(1, 1, 6, 6)


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.LayerNorm((6, 6, 6))
        self.head = nn.Linear(6, 4)

    def forward(self, images):
        return self.head(self.norm(self.conv(images)).mean((2, 3)))


def test_a_norm_over_maps_is_matched_by_its_channels(splits):
    torch.manual_seed(0)
    teacher = Normed()
    cut = sc.prune(teacher, X, keep={"conv": [0, 3, 4]}, check=False)
    features = matching_channels(cut.plan, teacher, ["norm"])
    assert features == {"norm": (0, 3, 4)}
    config = FitConfig(epochs=1, batch_size=32, quiet=True, device="cpu")
    asked = Distillation(teacher, weight=0.0, features=features)
    assert fit(cut.model, splits, config, distillation=asked).history[0].distillation > 0


def test_after_two_cuts_channels_are_those_of_the_uncut_teacher(narrow):
    first = sc.prune(narrow, X, keep={"conv": [0, 2, 3, 5]})
    second = sc.prune(first.model, X, keep={"conv": [1, 3], "deep": [0, 4, 7]})
    plan = second.plan.after(first.plan)
    assert matching_channels(plan, narrow, ["*"]) == {
        "conv": (2, 5),
        "norm": (2, 5),
        "deep": (0, 4, 7),
        "head": (0, 1, 2, 3),
    }
    # The teacher may be the model in between.
    assert matching_channels(plan, first.model, ["conv"], first.plan) == {"conv": (1, 3)}


def test_a_teacher_that_lost_what_the_student_has_is_refused(narrow):
    one, other = (sc.prune(narrow, X, keep={"conv": keep}) for keep in ([0, 1, 2], [0, 1, 5]))
    with pytest.raises(RequestError, match="student has channels of conv that the teacher has lost"):
        matching_channels(one.plan, other.model, ["conv"], other.plan)


def test_another_network_is_refused(narrow, make_narrow):
    plan = sc.prune(narrow, X, keep={"conv": [0, 1]}).plan
    with pytest.raises(RequestError, match="teacher is not Narrow"):
        matching_channels(plan, make_narrow(outputs=9), ["conv"])


def test_a_pattern_that_fits_nothing_lists_what_there_is(narrow):
    plan = sc.prune(narrow, X, keep={"conv": [0, 1]}).plan
    with pytest.raises(RequestError, match=r"fits 'dropout'\n  layers to match: conv, norm, deep, head"):
        matching_channels(plan, narrow, ["dropout"])


def test_where_channels_are_is_known_for_layers_with_weights_only():
    layers = (nn.BatchNorm1d(2), nn.LayerNorm(2), nn.LayerNorm((2, 5, 5)))
    assert [channel_dim(layer) for layer in layers] == [1, -1, -3]
    with pytest.raises(RequestError, match="where ReLU has its channels is not known"):
        channel_dim(nn.ReLU())
