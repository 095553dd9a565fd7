"""The public way to recover: steps in order, errors before and after, the same from `prune`."""

import nets_deep
import pytest
import torch
import torchvision
from torch import nn

import secateur as sc
from secateur.errors import RequestError


class Tokens(nn.Module):
    """A small vision transformer: patches, attention, an MLP, residual streams."""

    def __init__(self, width=32, heads=4):
        super().__init__()
        self.embed = nn.Conv2d(3, width, 4, 4)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.attention = nn.ModuleList(
            nn.MultiheadAttention(width, heads, batch_first=True) for _ in range(2)
        )
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width)) for _ in range(2)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        for at in range(2):
            y = self.norms[2 * at](x)
            x = x + self.attention[at](y, y, y, need_weights=False)[0]
            x = x + self.mlp[at](self.norms[2 * at + 1](x))
        return self.head(x.mean(1))


def photos(count, size, batch=8, seed=0):
    """Images with structure: few numbers decide many pixels."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(12, 3, size, size, generator=generator)
    return [
        torch.einsum("nk,kchw->nchw", torch.randn(batch, 12, generator=generator), basis) / 3
        for _ in range(count)
    ]


def perceptron():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))


def data_of(count=4):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(32, 4, generator=generator) for _ in range(count)]


def test_steps_run_in_order_and_tell_the_error_before_and_after():
    plain = sc.prune(perceptron(), torch.zeros(1, 4), ratio=0.5)
    better = sc.recover(plain, data_of(9), ["absorb", "refit"])
    absorb, refit = better.errors
    assert (absorb.step, refit.step) == ("absorb", "refit")
    assert absorb.before > absorb.after == refit.before > refit.after
    assert [recovery.step for recovery in better.recovered] == ["absorb"] * 2 + ["refit"] * 2
    held = data_of(9)[-1]
    with torch.no_grad():
        dense, cut = plain.original(held), better.model(held)
    assert refit.after == pytest.approx(((cut - dense).norm() / dense.norm()).item(), rel=1e-4)
    text = str(better)
    for part in ("output error before", "absorb", "refit", "on the last batch, which no step saw"):
        assert part in text
    assert plain.errors == ()
    assert plain.recovered == ()


def test_the_last_of_few_batches_is_seen_by_the_steps_and_said_so():
    plain = sc.prune(perceptron(), torch.zeros(1, 4), ratio=0.5)
    (one,) = sc.recover(plain, data_of(3), ["refit"]).errors
    assert str(one).endswith("on the last batch")


def test_prune_with_recover_gives_the_same():
    steps = ["absorb", "refit", "batch-norm"]
    two = sc.recover(sc.prune(perceptron(), torch.zeros(1, 4), ratio=0.5), data_of(), steps)
    words = {"criterion": "l2", "data": data_of(), "recover": steps}
    one = sc.prune(perceptron(), torch.zeros(1, 4), ratio=0.5, **words)
    assert one.errors == two.errors
    assert one.recovered == two.recovered
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, two.model.state_dict()[name])


def test_steps_may_be_one_word_and_default_to_what_the_data_allows():
    plain = sc.prune(perceptron(), torch.zeros(1, 4), ratio=0.5)
    assert [one.step for one in sc.recover(plain, data_of(), "refit").errors] == ["refit"]
    assert [one.step for one in sc.recover(plain, data_of()).errors] == ["absorb", "refit"]
    assert {recovery.step for recovery in sc.recover(plain).recovered} == {"absorb"}


def test_loaders_are_read_once():
    plain = sc.prune(perceptron(), torch.zeros(1, 4), ratio=0.5)
    reads = []

    class Loader:
        def __iter__(self):
            reads.append(1)
            return iter([(x, torch.zeros(32)) for x in data_of()])

    one = sc.recover(plain, Loader(), ["absorb", "refit", "batch-norm"])
    two = sc.recover(plain, (x for x in data_of()), ["absorb", "refit", "batch-norm"])
    assert reads == [1]
    assert one.errors == two.errors


@pytest.mark.parametrize(
    ("data", "message"),
    [([], "the data yields no batch"), (torch.zeros(8, 4), "the data is one Tensor, not batches")],
)
def test_data_that_is_none_is_refused(data, message):
    with pytest.raises(RequestError, match=message):
        sc.prune(perceptron(), torch.zeros(1, 4), ratio=0.5, data=data, recover=["refit"])


def test_absorb_is_for_a_fresh_cut():
    """It adds constants to what is there; a second time they would be made up for twice."""
    plain, data = sc.prune(perceptron(), torch.zeros(1, 4), ratio=0.5), data_of()
    for steps in (["refit", "absorb"], ["absorb", "absorb"], ["batch-norm", "absorb"]):
        with pytest.raises(
            RequestError, match=rf"'absorb' is for a fresh cut, and '{steps[0]}' comes before"
        ):
            sc.recover(plain, data, steps)
    for first in ("absorb", "refit"):
        done = sc.recover(plain, data, [first])
        for again, steps in ((data, "absorb"), (data, ["absorb", "refit"]), (None, None)):
            with pytest.raises(RequestError, match="the model was recovered or trained since"):
                sc.recover(done, again, steps)


def test_of_a_recovered_or_trained_model_refit_is_what_runs_of_itself():
    plain, data = sc.prune(perceptron(), torch.zeros(1, 4), ratio=0.5), data_of()
    once = sc.recover(plain, data)
    twice = sc.recover(once, data)
    assert [one.step for one in twice.errors] == ["absorb", "refit", "refit"]
    assert twice.errors[-1].after <= once.errors[-1].after * (1 + 1e-6)  # equal but for rounding
    with torch.no_grad():
        plain.model[4].bias += 1  # as training would
    assert [one.step for one in sc.recover(plain, data).errors] == ["refit"]


def test_no_step_gives_a_copy():
    plain = sc.prune(perceptron(), torch.zeros(1, 4), ratio=0.5)
    same = sc.recover(plain, data_of(), [])
    assert same.model is not plain.model
    assert torch.equal(same.model[0].weight, plain.model[0].weight)
    assert same.recovered == same.errors == ()


def test_an_unknown_step_is_refused_with_a_suggestion():
    plain = sc.prune(perceptron(), torch.zeros(1, 4), ratio=0.5)
    with pytest.raises(RequestError, match=r"unknown recovery step 'refti'(.|\n)*did you mean 'refit'"):
        sc.recover(plain, data_of(), ["refti"])


def test_a_transformer_is_refitted_on_all_its_tokens():
    torch.manual_seed(0)
    model = Tokens()
    data = photos(9, 16)
    plain = sc.prune(model, data[0], ratio=0.3, scope="local")
    better = sc.recover(plain, data, ["refit"])
    (one,) = better.errors
    assert one.after < 0.5 * one.before
    layers = {recovery.layer for recovery in better.recovered}
    assert {"attention.0.out_proj", "mlp.1.2", "mlp.0.0", "attention.1", "head"} <= layers
    assert any("on 1,024 positions" in recovery.detail for recovery in better.recovered)  # 8 x 8 x 16 tokens


def test_a_residual_network_comes_nearer_to_the_dense_one():
    torch.manual_seed(0)
    model = nets_deep.SmallResNet()
    data = photos(9, 16)
    for x in data:
        model(x)
    plain = sc.prune(model.eval(), data[0], ratio=0.4, scope="local")
    (one,) = sc.recover(plain, data, ["refit"]).errors
    assert one.after < 0.7 * one.before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_torchvision_networks_come_nearer_to_the_dense_ones(name):
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(num_classes=10)
    data = photos(9, 32, batch=6)
    with torch.no_grad():
        for x in [*data, *data]:
            model(x)
    plain = sc.prune(model.eval(), data[0], ratio=0.3, scope="local", check=False)
    better = sc.recover(plain, data, ["refit"])
    (one,) = better.errors
    assert one.after < 0.8 * one.before
    assert better.model(data[0]).isfinite().all()


def test_a_model_of_keyword_inputs_and_masks_is_recovered():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.inner = nn.Embedding(20, 8), nn.Linear(8, 32)
            self.outer, self.head = nn.Linear(32, 8), nn.Linear(8, 4)

        def forward(self, tokens, mask):
            x = self.table(tokens) * mask[..., None]
            return {"logits": self.head(x + self.outer(self.inner(x).tanh()))}

    torch.manual_seed(0)
    batches = [
        {"tokens": torch.randint(0, 20, (4, 9)), "mask": torch.ones(4, 9), "labels": torch.zeros(4)}
        for _ in range(4)
    ]
    example = {"tokens": batches[0]["tokens"], "mask": batches[0]["mask"]}
    plain = sc.prune(Masked(), example, ratio=0.5, scope="local")
    (one,) = sc.recover(plain, batches, ["refit"]).errors
    assert one.after < one.before
