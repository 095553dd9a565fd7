"""Data: `secateur.prune` and `secateur.mask.prune` take the same, and refuse the same in the same words."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import secateur as sc
from secateur import errors

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 1, 0, 1, 0])


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


class Named(nn.Module):
    """Takes keyword inputs, as language models do, and labels that nobody has to give."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, tokens=None, scale=None, labels=None):
        assert labels is None
        return self.net(tokens if scale is None else tokens * scale)


class Two(nn.Module):
    """Takes two positional inputs."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x, scale):
        return self.net(x * scale)


S = torch.full((6, 1), 2.0)
LABELLED = {
    "tuples": [(X, Y)],
    "lists": [[X, Y]],
    "dicts with a label": [{"input": X, "label": Y}],
    "a loader": DataLoader(TensorDataset(X, Y), batch_size=4),
    "several forms": [(X[:3], Y[:3]), {"input": X[3:], "labels": Y[3:]}],
}
TAKEN = {
    **LABELLED,
    "tensors": [X],
    "two tensors": [X[:2], X[2:]],
    "a tuple of batches": (X,),
    "pieces": X.split(3),
    "dicts": [{"input": X}],
    "a dict of one tensor": [{"pixels": X}],
}
REFUSED = {
    "one tensor": X,
    "one dict": {"input": X},
    "a word": "digits",
    "a number": 3,
    "no batch": [],
    "a spent generator": iter(()),
    "an empty batch": [X[:0]],
    "an empty tuple": [()],
    "a batch of words": ["a"],
    "a batch of a number": [3],
    "a dict of others": [{"pixels": X, "index": Y}],
    "a batch that does not fit": [torch.zeros(2, 5)],
    "a second batch that does not fit": [X, torch.zeros(2, 5)],
}


def through_channels(data, criterion):
    return sc.prune(net(), X[:1], ratio=0.5, criterion=criterion, data=data, check=False)


def through_masks(data, method):
    model = net()
    return sc.mask.prune(model, method, amount=0.5, data=data), model


@pytest.mark.parametrize("name", TAKEN)
def test_what_one_takes_the_other_takes_and_all_forms_say_the_same(name):
    through_channels(TAKEN[name], "activation-abs")
    found, model = through_masks(TAKEN[name], "wanda")
    assert found.sparsity == 0.5
    plain = net()
    sc.mask.prune(plain, "wanda", amount=0.5, data=[X])
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), plain.parameters(), strict=True))
    assert torch.equal(model[0].weight_mask, plain[0].weight_mask)
    assert torch.equal(model[2].weight_mask, plain[2].weight_mask)


def test_a_generator_is_read_by_both():
    through_channels((batch for batch in X.split(2)), "activation-abs")
    found, _ = through_masks((batch for batch in X.split(2)), "wanda")
    assert found.sparsity == 0.5


@pytest.mark.parametrize("name", LABELLED)
def test_labels_are_found_by_both(name):
    through_channels(LABELLED[name], "taylor")
    _, model = through_masks(LABELLED[name], "taylor")
    plain = net()
    batches = [(X[:3], Y[:3]), (X[3:], Y[3:])] if name == "several forms" else [(X, Y)]
    batches = [(X[:4], Y[:4]), (X[4:], Y[4:])] if name == "a loader" else batches
    sc.mask.prune(
        plain,
        "taylor",
        amount=0.5,
        data=batches,
        loss=lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
    )
    assert torch.equal(model[0].weight_mask, plain[0].weight_mask)
    assert torch.equal(model[2].weight_mask, plain[2].weight_mask)


@pytest.mark.parametrize("name", REFUSED)
def test_what_one_refuses_the_other_refuses_in_the_same_words(name):
    said = []
    for through, criterion in ((through_channels, "activation-abs"), (through_masks, "wanda")):
        data = iter(()) if name == "a spent generator" else REFUSED[name]
        with pytest.raises(errors.SecateurError) as caught:
            through(data, criterion)
        said.append((type(caught.value), str(caught.value)))
    assert said[0] == said[1]


@pytest.mark.parametrize("data", [X, [], {"input": X}, 3], ids=["tensor", "nothing", "dict", "number"])
def test_a_criterion_that_looks_at_no_data_does_not_make_nonsense_right(data):
    said = []
    for through, criterion in ((through_channels, "l1"), (through_masks, "l1")):
        with pytest.raises(errors.RequestError) as caught:
            through(data, criterion)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_no_labels_and_no_loss_are_refused_and_the_batch_is_named():
    with pytest.raises(errors.RequestError, match="'taylor' needs a loss, batch 0 of the data has no labels"):
        through_masks([X], "taylor")
    with pytest.raises(errors.RequestError, match="batch 1 of the data has no labels"):
        through_masks([(X, Y), X], "taylor")


KEYWORDS = {
    "keywords": [{"tokens": X, "scale": S}],
    "with labels": [{"tokens": X, "scale": S, "labels": Y}],
    "one of two": [{"tokens": 2 * X}],
    "positional": [(2 * X, Y)],
}


@pytest.mark.parametrize("name", KEYWORDS)
def test_what_a_model_takes_is_read_off_the_first_batch_and_its_forward(name):
    model, plain = Named(), net()
    sc.mask.prune(model, "wanda", amount=0.5, data=KEYWORDS[name])
    sc.mask.prune(plain, "wanda", amount=0.5, data=[2 * X])
    assert torch.equal(model.net[2].weight_mask, plain[2].weight_mask)


@pytest.mark.parametrize("data", [[(X, S)], [(X, S, Y)], [{"scale": S, "x": X, "y": Y}]])
def test_models_of_several_inputs_get_them_in_order(data):
    model, plain = Two(), net()
    sc.mask.prune(model, "wanda", amount=0.5, data=data)
    sc.mask.prune(plain, "wanda", amount=0.5, data=[2 * X])
    assert torch.equal(model.net[2].weight_mask, plain[2].weight_mask)
    with pytest.raises(errors.RequestError, match="holds 1 items, the model takes 2 inputs"):
        sc.mask.prune(Two(), "wanda", amount=0.5, data=[X])


def test_example_inputs_say_what_forward_does_not():
    found = []
    for example in (None, (X[:1], S[:1])):
        model = Named()
        sc.mask.prune(model, "wanda", amount=0.5, data=[(X, 1 / (1 + X.abs()))], example_inputs=example)
        found.append(model.net[0].weight_mask)
    assert not torch.equal(*found)  # without it the second item counts as labels


class Stateful(nn.Module):
    """Counts and averages in training, drops, and caches."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.5), nn.Flatten())
        self.head = nn.LazyLinear(2)
        self.head(self.net(torch.zeros(1, 3, 5, 5)))
        self.seen = None

    def forward(self, x):
        self.seen = self.head(self.net(x))
        return self.seen


IMAGES, LABELS = torch.randn(8, 3, 5, 5), torch.randint(2, (8,))


@pytest.mark.parametrize("method", ["wanda", "sparsegpt", "taylor", "movement"])
def test_looking_at_data_leaves_the_model_as_it_was(method):
    model = Stateful().train()
    for parameter in model.head.parameters():
        parameter.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    numbers = torch.random.get_rng_state()
    sc.mask.prune(model, method, amount=0.5, data=[(IMAGES, LABELS)])
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.seen is None
    assert [parameter.requires_grad for parameter in model.head.parameters()] == [False, False]
    assert torch.equal(torch.random.get_rng_state(), numbers)
    for name, value in model.named_buffers():
        assert name.endswith("_mask") or torch.equal(value, before[name]), name
    model(IMAGES).sum().backward()  # nothing of inference mode is left in it


def test_the_layers_of_code_without_modules_and_of_masked_weights_are_seen():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 4, 3, 3, 3))
            self.out = nn.Conv2d(5, 4, 2, padding=1, padding_mode="circular")

        def forward(self, x):
            return self.out(nn.functional.conv3d(x, self.weight).sum(2))

    model, x = Functional(), torch.randn(2, 4, 5, 5, 5)
    for method in ("wanda", "sparsegpt"):
        for _ in range(2):
            found = sc.mask.prune(model, method, amount=0.25, data=[x])
    assert found.sparsity == pytest.approx(1 - 0.75**4, abs=0.01)


def test_a_router_may_send_every_batch_another_way():
    class Routed(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

        def forward(self, x):
            return self.experts[int(x.sum() > 0)](x)

    model = Routed()
    found = sc.mask.prune(model, "wanda", amount=0.5, data=[X.abs(), -X.abs()])
    assert found.sparsity == 0.5
    with pytest.raises(errors.RequestError, match=r"the data never reaches experts\.0\.weight"):
        sc.mask.prune(Routed(), "wanda", amount=0.5, data=[X.abs()])


def test_layers_whose_inputs_lie_elsewhere_are_refused():
    layer = nn.ConvTranspose2d(4, 6, 3)
    with pytest.raises(errors.RequestError, match="the inputs of weight are not understood"):
        sc.mask.prune(layer, "wanda", amount=0.5, data=[torch.randn(1, 4, 5, 5)])
    assert not sc.mask.is_pruned(layer)


@pytest.mark.parametrize("method", ["wanda", "sparsegpt", "taylor"])
def test_scores_that_are_no_numbers_are_refused(method):
    spoilt = X.clone()
    spoilt[0, 0] = torch.nan
    model = net()
    with pytest.raises(errors.SecateurError, match="hold NaN"):
        sc.mask.prune(model, method, amount=0.5, data=[(spoilt, Y)])
    assert not sc.mask.is_pruned(model)
