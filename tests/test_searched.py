"""`prune(search=..., depth=...)`: widths and blocks that are judged by what the network puts out."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import secateur as sc
from secateur import timing
from secateur.costs import Latency, layers
from secateur.errors import RequestError
from secateur.recovery.loss import output_error
from secateur.searching import Compared

X = torch.zeros(1, 6)
SEED = 3


def batches(count=8, rows=32):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(rows, 6, generator=generator) for _ in range(count)]


class Block(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x):
        return x + self.down(self.up(x).relu())


def plain():
    torch.manual_seed(SEED)
    return nn.Sequential(
        nn.Linear(6, 16),
        nn.ReLU(),
        nn.Linear(16, 24),
        nn.ReLU(),
        nn.Linear(24, 12),
        nn.ReLU(),
        nn.Linear(12, 3),
    ).eval()


def residual(idle="2"):
    """Three blocks, of which one does nothing."""
    torch.manual_seed(SEED)
    net = nn.Sequential(nn.Linear(6, 8), Block(8, 32), Block(8, 32), Block(8, 32), nn.Linear(8, 3)).eval()
    nn.init.zeros_(net.get_submodule(idle).down.weight)
    nn.init.zeros_(net.get_submodule(idle).down.bias)
    return net


def error_on(model, result, held):
    with torch.no_grad():
        return output_error([model(x) for x in held], [result.model(x) for x in held])


def widths(result):
    return {name: len(kept) for name, kept in result.plan.keep.items()}


# Widths.


def test_searched_widths_meet_the_budget_and_are_told_of():
    model, data = plain(), batches()
    before = copy.deepcopy(model.state_dict())
    result = sc.prune(model, X, macs=0.4, data=data, search=12)
    searched = result.plan.account.searched
    assert result.after.macs <= 0.4 * result.before.macs
    assert result.verdict.exact
    assert searched.tried == 12
    assert 0 < searched.after <= searched.before
    assert searched.judged_on == "4 parts of the data, each recovered by the others"
    assert str(searched) in str(result)
    assert str(searched) in str(sc.explain(result.plan))
    assert result.plan.requested.options["search"] == 12
    assert sc.Plan.from_json(result.plan.to_json()) == result.plan
    assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_other_widths_than_the_scope_chose_say_so():
    model, data = plain(), batches()
    result = sc.prune(model, X, macs=0.4, data=data, search=24)
    start = sc.prune(model, X, macs=0.4, data=data[:6])
    assert widths(result) != widths(start), "by this seed one is better"
    assert result.plan.account.searched.after < result.plan.account.searched.before
    assert "search" in {group.decided for group in sc.explain(result).groups}


def by_parts(model, data, keep, **words):
    """The output error of widths by each quarter of eight batches, recovered by the others, and by all."""
    found = []
    for at in (6, 4, 2, 0):
        rest = [*data[:at], *data[at + 2 :]]
        again = sc.prune(model, X, keep=keep, data=rest, **words)
        found.append(error_on(model, again, data[at : at + 2]))
    return found, (sum(error**2 for error in found) / 4) ** 0.5


def test_the_errors_that_are_told_are_those_of_networks_recovered_by_the_other_batches():
    model, data = plain(), batches()
    result = sc.prune(model, X, macs=0.4, data=data, search=12)
    searched = result.plan.account.searched
    start = sc.prune(model, X, macs=0.4, data=data[:6], recover=[])
    for one, told in ((result, searched.after), (start, searched.before)):
        _, error = by_parts(model, data, dict(one.plan.keep), recover=["absorb", "refit"])
        assert error == pytest.approx(told, rel=1e-4)


def test_a_search_is_repeated_by_its_seed():
    model, data = plain(), batches()
    one, two = (sc.prune(model, X, params=0.5, data=data, search=8, seed=5) for _ in range(2))
    assert one.plan == two.plan
    assert_close(one.model.state_dict(), two.model.state_dict(), rtol=0, atol=0)


def misleading():
    """Two wide layers in a row: of the first each channel counts, of the second four do."""
    torch.manual_seed(SEED)
    net = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3)).eval()
    with torch.no_grad():
        net[2].weight[4:] *= 1e-3
        net[2].bias[4:] = 0
        net[2].weight[:4] *= 3
    return net


def test_planted_widths_are_found_where_the_criterion_misleads_between_groups():
    model, data = misleading(), batches()

    def scores(view):
        rows = view.weights[0].abs().sum(1)
        return rows * (1e3 if view.name == "2" else 1e-3)  # the right order inside, nonsense between

    start = sc.prune(model, X, params=0.5, data=data, criterion=scores, recover=["refit"])
    result = sc.prune(model, X, params=0.5, data=data, criterion=scores, recover=["refit"], search=24)
    assert widths(start)["2"] > 20
    assert widths(result)["2"] < widths(start)["2"]
    assert widths(result)["0"] > widths(start)["0"]
    fresh = [torch.randn(64, 6, generator=torch.Generator().manual_seed(9))]
    assert error_on(model, result, fresh) < 0.5 * error_on(model, start, fresh)


def test_without_a_recovery_the_cut_network_itself_is_judged():
    model, data = plain(), batches()
    result = sc.prune(model, X, macs=0.5, criterion="l2", data=data, search=8)
    _, error = by_parts(model, data, dict(result.plan.keep), recover=[])
    assert error == pytest.approx(result.plan.account.searched.after, rel=1e-5)
    for name, tensor in result.model.state_dict().items():
        masks = [torch.from_numpy(mask) for mask in result.plan.masks(name)]
        whole = model.state_dict()[name]
        for dim, mask in enumerate(masks):
            whole = whole.index_select(dim, mask.nonzero()[:, 0])
        assert torch.equal(whole, tensor), "the weights are the original's"


def test_a_single_batch_judges_too_and_says_so():
    result = sc.prune(plain(), X, macs=0.5, data=batches(1), search=4)
    assert result.plan.account.searched.judged_on == "the only batch"


@pytest.mark.parametrize(("count", "fit"), [(1, 1), (2, 1), (3, 2), (4, 3), (8, 6), (16, 12)])
def test_batches_that_judge_are_no_batches_to_choose_by(count, fit):
    compared = Compared.of(plain(), X, batches(count), ())
    assert len(compared.fit) == len(compared.seen) == fit
    assert len(compared.held.batches) == max(count - fit, 1)
    judged = {id(one) for one in compared.held.batches}
    assert judged.isdisjoint(map(id, compared.fit)) == (count > 1)
    assert len(compared.some(1.0)) == fit
    assert len(compared.some(0.25)) == max(1, round(fit / 4))
    assert len(compared.parts) == min(count, 4)
    for others, held in compared.parts if count > 1 else ():
        assert {id(one) for one in held.batches}.isdisjoint(map(id, others))
        assert len(others) + len(held.batches) == count
    assert len({number for _, held in compared.parts for number in held.numbers}) == count


def test_a_generator_of_labelled_batches_does():
    data = ((x, torch.zeros(len(x))) for x in batches())
    assert sc.prune(plain(), X, macs=0.5, data=data, search=4).plan.account.searched.tried == 4


# Blocks.


def test_the_block_that_does_nothing_goes_and_no_other():
    model, data = residual(), batches()
    before = copy.deepcopy(model.state_dict())
    result = sc.prune(model, X, macs=0.69, data=data, depth=True)
    assert result.plan.chain[0].dropped == ("2",)
    assert result.after.macs <= 0.69 * result.before.macs
    assert result.before == sc.measure(model, X)
    assert error_on(model, result, data) < 1e-5
    assert result.verdict.exact
    assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_blocks_and_channels_go_in_one_plan_that_is_proven_saved_and_trained(tmp_path):
    model, data = residual(), batches()
    result = sc.prune(model, X, macs=0.55, data=data, depth=True)
    dropping, cutting = result.plan.chain
    assert "2" in dropping.dropped
    assert cutting.groups
    assert result.after.macs <= 0.55 * result.before.macs
    assert result.plan.requested.kind == "macs"
    assert result.plan.requested.value == 0.55
    assert result.plan.account.whole == result.before.macs
    assert "depth tried: " in str(result)
    assert "without 2 " in str(sc.explain(result))
    verdict = sc.check(model, result.plan, X)
    assert verdict.passed
    sc.save(result, tmp_path / "model")
    loaded = sc.load(tmp_path / "model", residual())
    x = torch.randn(4, 6)
    assert_close(loaded(x), result.model(x))
    assert sc.Plan.of(loaded) == result.plan
    optimizer = torch.optim.SGD(loaded.parameters(), lr=0.01)
    loss = loaded.train()(x).square().sum()
    loss.backward()
    optimizer.step()
    assert float(loaded(x).detach().square().sum()) < float(loss.detach())


def test_the_errors_that_are_told_are_against_the_dense_model():
    model, data = residual(), batches()
    nn.init.normal_(model[2].down.weight, std=0.05)  # nearly idle: without it the outputs are others
    result = sc.prune(model, X, macs=0.55, data=data, depth=True)
    assert result.plan.chain[0].dropped == ("2",)
    assert [one.step for one in result.errors] == ["refit", "absorb", "refit"]
    assert result.errors[-1].after == pytest.approx(error_on(model, result, data[-1:]), rel=1e-4)
    assert result.errors[-1].after != pytest.approx(error_on(result.original, result, data[-1:]), rel=1e-2)


class Deep(nn.Module):
    """More layers than a `Block`, of fewer MACs."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(*(nn.Linear(8, 8) for _ in range(5)))
        self.down = nn.Linear(8, 8)

    def forward(self, x):
        return x + self.down(self.inner(x).relu())


@pytest.fixture
def slow_calls(monkeypatch, tmp_path):
    """A machine that takes a millisecond for each layer and hardly more for a wide one."""

    def ms_of(shape):
        return 1 + shape[0] * shape[1] / 1e4

    def ms(model):
        return sum(ms_of(held.weight.shape) for held in model.modules() if isinstance(held, nn.Linear))

    def of_call(call, device, **_):
        weight = call.args.get("weight")
        return 1e-6 if weight is None else ms_of(weight.shape)

    def in_turn(models, inputs, **_):
        return [Latency(ms(model), ms(model), ms(model), 3, 1, 1, "cpu") for model in models]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(timing, "latency_in_turn", in_turn)
    monkeypatch.setattr(timing.Timing, "_work", lambda held, models: [ms(model) / 2 for model in models])
    monkeypatch.setattr(layers, "_time", of_call)
    return ms


def _with_a_deep_block():
    """Two blocks that do little: one has more MACs, the other more layers and 1.3 times the effect."""
    torch.manual_seed(SEED)
    model = nn.Sequential(nn.Linear(6, 8), Block(8, 32), Block(8, 32), Deep(), nn.Linear(8, 3)).eval()
    x = torch.cat(batches())
    with torch.no_grad():
        for at, size in ((2, 0.01), (3, 0.013)):
            model[at].down.bias.zero_()
            before = model[:at](x)
            model[at].down.weight.mul_(size * before.norm() / (model[at](before) - before).norm())
    return model


def test_a_budget_of_milliseconds_weighs_blocks_by_what_they_take(slow_calls):
    model = _with_a_deep_block()
    counted = sc.prune(model, X, macs=0.66, data=batches(), depth=True, criterion="l2")
    assert counted.plan.chain[0].dropped == ("2",)
    timed = sc.prune(model, X, latency_ms="60%", data=batches(), depth=True, criterion="l2")
    assert timed.plan.chain[0].dropped == ("3",)
    account, whole = timed.plan.account, slow_calls(model)
    assert (account.whole, account.wanted) == pytest.approx((whole, 0.6 * whole))
    assert account.measured == pytest.approx(slow_calls(timed.model))
    assert account.measured < account.wanted
    assert timed.verdict.exact
    assert str(timed.plan.requested) == "latency_ms=60%"


def test_widths_meet_the_milliseconds_that_blocks_leave(slow_calls):
    model = _with_a_deep_block()
    wanted = slow_calls(model) - 6 - 6 * 64 / 1e4 - 0.01
    timed = sc.prune(model, X, latency_ms=wanted, data=batches(), depth=True, protect="2.up")
    account = timed.plan.account
    dropping, cutting = timed.plan.chain
    assert dropping.dropped == ("3",)
    assert cutting.keep
    assert account.measured == pytest.approx(slow_calls(timed.model))
    assert account.measured <= account.wanted == pytest.approx(wanted)


def test_where_no_block_can_go_cheaply_all_stay():
    torch.manual_seed(SEED)
    model = residual()
    with torch.no_grad():
        for at in (1, 2, 3):
            nn.init.normal_(model[at].down.weight, std=3.0)
    result = sc.prune(model, X, macs=0.9, data=batches(), depth=True)
    assert result.plan.previous is None
    assert not result.plan.dropped
    assert "no block dropped" in str(result)


def test_depth_is_never_worse_than_widths_by_its_own_measure():
    model, data = residual(), batches()
    result = sc.prune(model, X, params=0.3, data=data, depth=True)
    told = result.plan.account.notes[0]
    shares = [float(share) for share in re.findall(r"([0-9.]+) %", told)]
    taken = sc.prune(model, X, params=0.3, data=data[:6])
    assert shares[0] == pytest.approx(100 * error_on(model, taken, data[6:]), rel=0.01)
    assert min(shares) <= shares[0]


def test_a_budget_that_widths_alone_cannot_meet_is_met_by_blocks_and_says_so():
    result = sc.prune(residual(), X, macs=0.36, data=batches(), depth=True, min_keep=0.75)
    assert result.after.macs <= 0.36 * result.before.macs
    assert re.search(r"not with all blocks: macs=0\.36 allows", result.plan.account.notes[0])
    with pytest.raises(RequestError, match="fits no module and no parameter"):
        sc.prune(residual(), X, macs=0.36, data=batches(), depth=True, protect="nonsense")


def test_protected_blocks_stay():
    model = residual()
    result = sc.prune(model, X, macs=0.6, data=batches(), depth=True, protect="2.up")
    assert all("2" not in plan.dropped for plan in result.plan.chain)


class Listed(nn.Module):
    """Blocks in a list, which those behind a dropped one move up in."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.layers = nn.ModuleList(Block(8, 32) for _ in range(3))

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def test_what_is_protected_behind_a_dropped_block_is_found_by_its_new_name():
    torch.manual_seed(SEED)
    model = Listed().eval()
    nn.init.zeros_(model.layers[0].down.weight)
    result = sc.prune(model, X, macs=0.55, data=batches(), depth=True, protect="layers.2.up")
    assert len(result.model.layers) == 2
    assert [layer.up.out_features == 32 for layer in result.model.layers] == [False, True]


def test_the_layers_behind_a_dropped_block_take_on_what_is_missing():
    torch.manual_seed(SEED)
    model = residual(idle="3")
    with torch.no_grad():
        model[3].down.weight.copy_(torch.randn(8, 32) * 0.1)
        model[1].down.weight.mul_(0.3)
    result = sc.prune(model, X, macs=0.37, data=batches(8, 128), depth=True)
    repair = result.errors[0]
    assert result.plan.chain[0].dropped
    assert repair.after < 0.8 * repair.before
    named = sc.prune(model, X, macs=0.37, data=batches(8, 128), depth=True, criterion="l2")
    assert not named.recovered, "weights stay as they are where no recovery is asked for"


def test_both_words_together_meet_the_budget():
    model, data = residual(), batches()
    result = sc.prune(model, X, macs=0.55, data=data, depth=True, search=6)
    assert result.after.macs <= 0.55 * result.before.macs
    assert result.plan.account.searched.tried == 6
    assert "depth tried" in result.plan.account.notes[0]


# Refusals.


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"macs": 0.5, "search": 8, "data": None}, "search was asked for without data"),
        ({"macs": 0.5, "depth": True, "data": None}, "depth was asked for without data"),
        ({"macs": 0.5, "search": 0}, "search is 0"),
        ({"macs": 0.5, "search": 2.5}, "search is 2.5"),
        ({"channels": {"0": 0.5}, "search": 8}, "says what each group loses"),
        ({"keep": {"0": [0, 1]}, "depth": True}, "says what each group loses"),
        ({"latency_ms": "50%", "search": 8}, "is measured, not counted"),
        ({"macs": 0.5, "scope": "local", "search": 8}, "gives every group the same share"),
        ({"ratio": 0.5, "depth": True}, "counts channels, not what blocks cost"),
        ({"macs": 0.5, "depth": True, "min_keep": {"0": 0.5}}, "shares for groups by name"),
    ],
)
def test_what_makes_no_sense_is_refused(words, message):
    with pytest.raises(RequestError, match=message):
        sc.prune(residual(), X, **{"data": batches(), **words})


def test_depth_needs_a_block_that_can_go():
    with pytest.raises(RequestError, match="depth was asked for, and no block can be dropped"):
        sc.prune(plain(), X, macs=0.5, data=batches(), depth=True)


def test_a_plan_is_not_searched_in_silence():
    ask = sc.Ask.of(macs=0.5, search=8)
    with pytest.raises(RequestError, match="search was asked for, which cuts models"):
        sc.plan(plain(), X, ask, data=batches())


def test_steps_are_not_searched_in_silence():
    from secateur.iterative import Recipe
    from secateur.train import FitConfig

    with pytest.raises(RequestError, match="search is for one cut"):
        Recipe(FitConfig(epochs=1), macs=0.5, search=8)


def test_a_model_whose_outputs_are_not_numbers_is_refused():
    class Index(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = plain()

        def forward(self, x):
            return self.inner(x).argmax(1)

    with pytest.raises(RequestError, match="no finite numbers that widths could be judged by"):
        sc.prune(Index().eval(), X, macs=0.5, data=batches(), search=4)
