"""Batch norms in the layers before them: what may go is proven, what may not stays with its reason."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import secateur as sc
from secateur.errors import CheckError, NoEffectWarning, RequestError
from secateur.folding import folded as home
from secateur.folding import pairs, surgery

IMAGE = torch.zeros(2, 4, 12, 12)
VECTORS = torch.zeros(3, 4)


def lived_in(model, seed=0):
    """A model in eval mode whose norms hold numbers of a training: no two alike, scales of both signs."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for name, tensor in module.state_dict().items():
                if tensor.is_floating_point():
                    drawn = torch.randn(tensor.shape, generator=generator)
                    tensor.copy_(drawn.abs() + 0.2 if name == "running_var" else drawn)
    return model.eval()


class ActiveNorm(nn.BatchNorm2d):
    """A norm with its activation, as timm's."""

    def __init__(self, channels):
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.SiLU()

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


LAYERS = {
    "conv1d": (lambda: [nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6)], torch.zeros(2, 4, 9)),
    "conv2d": (lambda: [nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)], IMAGE),
    "conv3d": (lambda: [nn.Conv3d(4, 6, 2), nn.BatchNorm3d(6)], torch.zeros(1, 4, 5, 5, 5)),
    "no bias": (lambda: [nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)], IMAGE),
    "grouped": (lambda: [nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)], IMAGE),
    "depthwise": (lambda: [nn.Conv2d(4, 8, 3, groups=4, bias=False), nn.BatchNorm2d(8)], IMAGE),
    "same padding": (lambda: [nn.Conv2d(4, 6, 3, padding="same"), nn.BatchNorm2d(6)], IMAGE),
    "reflected": (lambda: [nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(6)], IMAGE),
    "transposed 1d": (lambda: [nn.ConvTranspose1d(4, 6, 3), nn.BatchNorm1d(6)], torch.zeros(2, 4, 9)),
    "transposed": (lambda: [nn.ConvTranspose2d(4, 6, 3, stride=2), nn.BatchNorm2d(6)], IMAGE),
    "transposed 3d": (lambda: [nn.ConvTranspose3d(4, 6, 2), nn.BatchNorm3d(6)], torch.zeros(1, 4, 4, 4, 4)),
    "transposed grouped": (
        lambda: [nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6)],
        IMAGE,
    ),
    "linear": (lambda: [nn.Linear(4, 6), nn.BatchNorm1d(6)], VECTORS),
    "linear, no bias": (lambda: [nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6)], VECTORS),
    "no affine": (lambda: [nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False)], IMAGE),
    "another eps": (lambda: [nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, eps=0.5)], IMAGE),
    "with its activation": (lambda: [nn.Conv2d(4, 6, 3), ActiveNorm(6)], IMAGE),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_folded_layer_computes_what_the_layer_and_its_norm_did(name):
    make, example = LAYERS[name]
    torch.manual_seed(0)
    model = lived_in(nn.Sequential(*make(), nn.ReLU()))
    folded = sc.fold(model, example)
    assert folded.layers == {"1": "0"}
    assert folded.left == {}
    assert not any(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in folded.model.modules())
    x = torch.randn(example.shape)
    torch.testing.assert_close(folded.model(x), model(x), rtol=1e-4, atol=1e-5)
    assert folded.relative_error < 1e-9


class Called(nn.Module):
    """A layer and a norm with a forward of one's own."""

    def __init__(self, run, layer=None, norm=None):
        super().__init__()
        self.layer, self.norm = layer or nn.Conv2d(4, 4, 3, padding=1), norm or nn.BatchNorm2d(4)
        self.run = run

    def forward(self, x):
        return self.run(self, x)


class Scaled(nn.Conv2d):
    """A layer whose own code takes no bias."""

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight)


class Elsewhere(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


def hooked(kind):
    model = Called(lambda self, x: self.norm(self.layer(x)))
    getattr(getattr(model, kind), f"register_forward_{'' if kind == 'layer' else 'pre_'}hook")(
        lambda *_: None
    )
    return model


def shared_layer(self, x):
    return self.norm(self.layer(x)) + self.layer(x + 1)


def masked():
    layer = nn.Conv2d(4, 4, 3)
    return nn.Sequential(parametrizations.weight_norm(layer), nn.BatchNorm2d(4))


def tied():
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
    model[2].weight = model[0].weight
    return model


def twice_registered():
    model = Called(lambda self, x: self.norm(self.layer(x)))
    model.other = model.norm
    return model


STAYS = {
    "no statistics": (
        lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
        "it takes the statistics of each batch",
    ),
    "first": (
        lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)),
        "it reads what the model is given",
    ),
    "behind an activation": (
        lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)),
        "it follows aten.relu",
    ),
    "read twice": (
        lambda: Called(lambda self, x: self.norm(y := self.layer(x)) + y),
        "aten.add (node 2) at folding/test_folding.py",
    ),
    "returned": (
        lambda: Called(lambda self, x: (self.norm(y := self.layer(x)), y)),
        "the model returns what",
    ),
    "a layer called twice": (lambda: Called(shared_layer), "the weight layer.weight is read 2 times"),
    "a norm called twice": (
        lambda: Called(lambda self, x: self.norm(self.layer(self.norm(self.layer(x))))),
        "it runs 2 times",
    ),
    "tied weights": (tied, "the weight of its layer is shared: 0.weight, 2.weight"),
    "a parametrized weight": (masked, "is computed, by a parametrization or a mask"),
    "a weight read elsewhere": (
        lambda: Called(lambda self, x: self.norm(self.layer(x)) + self.layer.weight.sum()),
        "the weight layer.weight is read 2 times",
    ),
    "a norm read elsewhere": (
        lambda: Called(lambda self, x: self.norm(self.layer(x)) * self.norm.weight.view(-1, 1, 1)),
        "aten.view (node 2)",
    ),
    "a hook on the layer": (lambda: hooked("layer"), "layer has hooks"),
    "a hook on the norm": (lambda: hooked("norm"), "norm has hooks"),
    "no place for a bias": (
        lambda: Called(lambda self, x: self.norm(nn.functional.conv2d(x, self.layer))),
        "has no bias, and its code may not take one",
    ),
    "a norm that does more": (
        lambda: nn.Sequential(nn.Conv2d(4, 4, 3), Elsewhere(4)),
        "its module computes something behind it: aten.mul",
    ),
    "run by other code": (
        lambda: Called(
            lambda self, x: nn.functional.batch_norm(
                self.layer(x), self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias
            )
        ),
        "other code than its own runs it",
    ),
    "registered twice": (twice_registered, "is in the model under 2 names: norm.running_mean"),
    "its attributes are read": (
        lambda: Called(lambda self, x: self.norm(self.layer(x)) * self.norm.eps),
        "without it the folded model stops: AttributeError",
    ),
    "a layer whose code takes no bias": (
        lambda: Called(lambda self, x: self.norm(self.layer(x)), Scaled(4, 4, 3, bias=False)),
        "the code of layer takes no bias",
    ),
}


def _built(name):
    torch.manual_seed(0)
    model = STAYS[name][0]()
    if name == "no place for a bias":
        model.layer = nn.Parameter(torch.randn(4, 4, 3, 3))
    return lived_in(model)


@pytest.mark.parametrize("name", STAYS)
def test_a_norm_that_may_not_go_stays_with_its_reason(name):
    model = _built(name)
    with pytest.warns(NoEffectWarning, match="no batch norm was folded"):
        folded = sc.fold(model, IMAGE)
    assert folded.layers == {}
    [reason] = folded.left.values()
    assert STAYS[name][1] in reason
    x = torch.randn(IMAGE.shape)
    for one, two in zip(
        torch.utils._pytree.tree_leaves(folded.model(x)),
        torch.utils._pytree.tree_leaves(model(x)),
        strict=True,
    ):
        assert torch.equal(one, two)


def test_features_in_another_dim_than_the_norm_stay():
    model = lived_in(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)))
    with pytest.warns(NoEffectWarning, match="do not lie in dim 1 of its result of 3 dims"):
        assert sc.fold(model, torch.zeros(2, 4, 5)).layers == {}


def test_an_unbatched_image_is_no_batch():
    model = lived_in(nn.Sequential(nn.Conv1d(3, 4, 1), nn.BatchNorm1d(7)))
    with pytest.warns(NoEffectWarning, match="do not lie in dim 1 of its result of 2 dims"):
        assert sc.fold(model, torch.zeros(3, 7)).layers == {}


def test_a_path_of_inputs_of_another_size_counts_too():
    def run(self, x):
        y = self.layer(x)
        return self.norm(y) + y if x.shape[-1] < 80 else self.norm(y)

    model = lived_in(Called(run))
    with pytest.warns(
        NoEffectWarning, match=r"on inputs of shape \[1, 4, 64, 64\] aten\.add .* reads what it"
    ):
        folded = sc.fold(model, torch.zeros(1, 4, 96, 96))
    assert folded.layers == {}


def test_the_users_model_is_not_touched():
    model = lived_in(nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6))).train()
    before, kinds = copy.deepcopy(model.state_dict()), [type(one) for one in model.modules()]
    folded = sc.fold(model, IMAGE)
    assert [type(one) for one in model.modules()] == kinds
    assert all(torch.equal(held, before[name]) for name, held in model.state_dict().items())
    assert model[0].bias is None
    assert folded.model.training
    assert {one.data_ptr() for one in folded.model.parameters()}.isdisjoint(
        one.data_ptr() for one in model.parameters()
    )


def test_types_and_gradients_stay_as_they_are():
    model = lived_in(nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6))).to(torch.bfloat16)
    model[0].weight.requires_grad_(False)
    folded = sc.fold(model, IMAGE.to(torch.bfloat16)).model
    assert {one.dtype for one in folded.parameters()} == {torch.bfloat16}
    assert not any(one.requires_grad for one in folded.parameters())


def test_numbers_that_overflow_stay_where_they_are():
    model = lived_in(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)))
    model[1].running_var.fill_(0.0)
    model[1].weight.data.fill_(6e4)
    with pytest.warns(NoEffectWarning, match="the numbers of 0 are not finite in float16"):
        sc.fold(model.half(), IMAGE.half(), check=False)


def wrong(change):
    """A surgery with a fault in it."""

    def folded_tensors(model, pair):
        held = copy.deepcopy(model)
        return change(held, pair, RIGHT)

    return folded_tensors


RIGHT = surgery.folded_tensors


def without_mean(model, pair, right):
    model.get_buffer(pair.statistics[0]).zero_()
    return right(model, pair)


def without_shift(model, pair, right):
    model.get_parameter(pair.statistics[3]).data.zero_()
    return right(model, pair)


def without_sign(model, pair, right):
    model.get_parameter(pair.statistics[2]).data.abs_()
    return right(model, pair)


def without_own_bias(model, pair, right):
    model.get_parameter(pair.bias).data.zero_()
    return right(model, pair)


def without_eps(model, pair, right):
    return right(model, surgery.NormPair(**{**vars(pair), "eps": 0.0}))


def one_channel_rolled(model, pair, right):
    weight, bias = right(model, pair)
    return weight, bias.roll(1)


def bias_alone(model, pair, right):
    return model.get_parameter(pair.weight).detach().clone(), right(model, pair)[1]


def inputs_scaled(model, pair, right):
    """As if the weights of a transposed layer had the outputs first."""
    return right(model, surgery.NormPair(**{**vars(pair), "groups": 0}))


FAULTS = [
    without_mean,
    without_shift,
    without_sign,
    without_own_bias,
    without_eps,
    one_channel_rolled,
    bias_alone,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda one: one.__name__)
def test_the_proof_sees_a_wrong_surgery(fault, monkeypatch):
    model = lived_in(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 1)))
    assert sc.fold(model, IMAGE).layers
    monkeypatch.setattr(surgery, "folded_tensors", wrong(fault))
    with pytest.raises(CheckError, match=r"first at aten\.batch_norm"):
        sc.fold(model, IMAGE)


def test_the_proof_sees_a_transposed_layer_folded_as_a_plain_one(monkeypatch):
    model = lived_in(nn.Sequential(nn.ConvTranspose2d(4, 4, 3), nn.BatchNorm2d(4)))
    assert sc.fold(model, IMAGE).layers
    monkeypatch.setattr(surgery, "folded_tensors", wrong(inputs_scaled))
    with pytest.raises(CheckError, match=r"first at aten\.batch_norm"):
        sc.fold(model, IMAGE)


def test_the_proof_sees_real_numbers_that_are_not_those_of_the_surgery(monkeypatch):
    model = lived_in(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)))
    made = []

    def late(given, found):
        result = surgery.without_norms(given, found)
        result[0].weight.data[0, 0, 0, 0] += 1e-6
        made.append(result)
        return result

    monkeypatch.setattr(home, "without_norms", late)
    with pytest.raises(CheckError, match="numbers differ by"):
        sc.fold(model, IMAGE)
    assert made


@pytest.mark.parametrize(
    "name", ["read twice", "returned", "a layer called twice", "a weight read elsewhere"]
)
def test_without_the_question_of_who_reads_it_the_proof_would_see_it(name, monkeypatch):
    monkeypatch.setattr(pairs._Finder, "_require_alone", lambda *_: None)
    monkeypatch.setattr(
        pairs._Finder, "_own", lambda self, layer, key: self.graph.names[layer.args[key].value][0]
    )
    with pytest.raises(CheckError):
        sc.fold(_built(name), IMAGE)


class Bottle(nn.Module):
    """As in YOLOv8: halves, a chain whose links are all kept, and a cat."""

    def __init__(self, width=16):
        super().__init__()
        self.enter, self.leave = block(width, width), block(2 * width, width)
        self.links = nn.ModuleList(block(width // 2, width // 2) for _ in range(2))

    def forward(self, x):
        kept = list(self.enter(x).chunk(2, 1))
        for link in self.links:
            kept.append(kept[-1] + link(kept[-1]))
        return self.leave(torch.cat(kept, 1))


def block(before, after, stride=1):
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, 1, bias=False),
        nn.BatchNorm2d(after, eps=1e-3),
        nn.SiLU(inplace=True),
    )


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.one, self.two = block(3, 16, 2), Bottle(), block(16, 16, 2)
        self.heads = nn.ModuleList(nn.Conv2d(16, 5, 1) for _ in range(2))

    def forward(self, x):
        near = self.one(self.stem(x))
        maps = [near, self.two(near)]
        return torch.cat([head(one).flatten(2) for head, one in zip(self.heads, maps, strict=True)], 2)


def resnet18():
    torchvision = pytest.importorskip("torchvision")
    return torchvision.models.resnet18(), 20


def mobilenet_v2():
    torchvision = pytest.importorskip("torchvision")
    return torchvision.models.mobilenet_v2(), 52


def detector():
    return Detector(), 6


@pytest.mark.parametrize("make", [resnet18, mobilenet_v2, detector], ids=lambda one: one.__name__)
def test_known_networks_lose_all_their_norms_before_and_after_a_cut(make):
    torch.manual_seed(0)
    model, count = make()
    lived_in(model)
    x = torch.randn(2, 3, 64, 64)
    result = sc.prune(model, x[:1], ratio=0.3, check=False)
    for given, example, whole in ((model, x[:1], model), (result, None, result.model)):
        folded = sc.fold(given, example)
        assert (len(folded.layers), folded.left) == (count, {})
        with torch.no_grad():
            expected, found = whole.double()(x.double()), folded.model.double()(x.double())
        assert float((expected - found).abs().max()) < 1e-4 * float(expected.std())
        model.float(), result.model.float()


def test_a_yolo_of_ultralytics_loses_its_norms():
    pytest.importorskip("ultralytics")
    from nets_library_writers import yolo

    torch.manual_seed(0)
    model, example = yolo()
    folded = sc.fold(lived_in(model), example)
    norms = [one for one in model.modules() if isinstance(one, nn.BatchNorm2d)]
    assert (len(folded.layers), folded.left) == (len(norms), {})


def test_a_folded_model_is_not_saved_as_what_a_plan_makes(tmp_path):
    model = lived_in(nn.Sequential(nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)))
    folded = sc.fold(sc.prune(model, IMAGE, ratio=0.5))
    with pytest.raises(RequestError, match="was changed after it was cut"):
        sc.save(folded.model, tmp_path / "folded")


def test_a_folded_model_can_be_cut():
    model = lived_in(nn.Sequential(nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1)))
    assert sc.prune(sc.fold(model, IMAGE).model, IMAGE, ratio=0.5).verdict.exact


def test_example_inputs_are_asked_for():
    with pytest.raises(RequestError, match="pass example_inputs="):
        sc.fold(nn.Conv2d(3, 4, 3))
