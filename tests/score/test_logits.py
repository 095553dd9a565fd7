"""The width of queries and keys: its moments, its price, and that what matters least goes first."""

import itertools

import attending_nets
import pytest
import torch

import secateur as sc
from secateur.capture.batches import Samples
from secateur.score.consumers import Consumers
from secateur.score.elimination import eliminate

DATA = list(torch.randn(5, 4, 7, 12, generator=torch.Generator().manual_seed(1)).double())


def found(model, data=DATA):
    """What reads the width of the queries."""
    groups = sc.couple(model, data[0], axes="widths")
    consumers = Consumers(model, groups, Samples(data, model, data[0]))
    (group,) = [one for one in groups.prunable if consumers.has(one) and "query" in one.name]
    return consumers.of(group)


@torch.no_grad()
def operands(model, x):
    part = model.attention
    query, key = part.heads_of(part.query(x), 4), part.heads_of(part.key(x), part.groups)
    if part.between == "rotary":
        query, key = part.turned(query), part.turned(key)
    key = key.repeat_interleave(4 // part.groups, 1)
    return query, 0.4 * (key - key.mean(-2, keepdim=True))


@pytest.mark.parametrize("words", [{}, {"grouped": True}, {"between": "rotary"}])
def test_the_error_is_that_of_the_logits_with_each_coordinate_scaled(words):
    model = attending_nets.attending(**words)
    consumers = found(model)
    assert len(consumers) == 4
    for head, consumer in enumerate(consumers):
        parts = []
        for x in DATA:
            query, key = (one[:, head] for one in operands(model, x))
            parts.append((query[:, :, None] * key[:, None]).flatten(0, 2))
        parts = torch.cat(parts)
        second = consumer.moments.second
        torch.testing.assert_close(second.diagonal(), parts.square().sum(0))
        share = float(second[0, 1] / (parts[:, 0] @ parts[:, 1]))
        torch.testing.assert_close(second[0, 1:], share * (parts.T @ parts)[0, 1:])
        assert 0 < share <= 1
        assert consumer.units.shape == ((4, 2) if words.get("between") else (8, 1))


def test_fused_and_written_out_are_alike():
    one, two = (found(attending_nets.attending(how)) for how in ("fused", "matmul"))
    for first, second in zip(one, two, strict=True):
        ratio = float(first.counts / second.counts * 0.4**2)  # other random signs
        assert 0.5 < ratio < 2
        torch.testing.assert_close(first.moments.second, second.moments.second * 0.4**2)


def test_the_order_is_that_of_brute_force():
    model = attending_nets.attending()
    consumers = found(model)

    def left(kept):
        """The error of the kept coordinates, scaled as is best."""
        total = 0.0
        for consumer in consumers:
            second, kept_at = consumer.moments.second, list(kept)
            mean = second.diagonal().mean()
            second = second + 1e-6 * mean * torch.eye(8).double()
            wanted = second.sum(1)
            solved = torch.linalg.solve(second[kept_at][:, kept_at], wanted[kept_at])
            total += 0.5 * float(consumer.counts) * float(second.sum() - wanted[kept_at] @ solved)
        return total

    result = eliminate(consumers)
    costs = {kept: left(kept) for kept in itertools.combinations(range(8), 7)}
    cheapest = min(costs, key=costs.get)
    assert set(range(8)) - set(cheapest) == {int(result.order[0])}
    assert float(result.errors[1]) == pytest.approx(costs[cheapest], rel=1e-3)


@pytest.mark.parametrize("how", ["fused", "matmul"])
def test_what_is_nothing_goes_first_and_by_default(how):
    model = attending_nets.attending(how)
    with torch.no_grad():
        for held in (model.attention.query.weight, model.attention.query.bias):
            held.view(4, 8, -1)[:, [2, 5]] = 0
    plan = sc.plan(model, DATA[0], axes="widths", channels={"attention.query#2": 0.25}, data=DATA)
    assert sorted(set(range(8)) - set(plan.keep["attention.query#2"])) == [2, 5]
    assert plan.account.criterion == "after-refit"


def test_the_price_is_what_a_change_of_the_logits_costs():
    """Where the outputs are linear in the logits, and these are unrelated, the estimate is near the truth."""
    model = attending_nets.attending("matmul")
    data = list(torch.randn(8, 64, 7, 12, generator=torch.Generator().manual_seed(2)).double())
    consumers = found(model, data)
    outputs = []
    inner = model.attention.mixed

    def nudged(noise):
        def mixed(query, key, value):
            return ((query @ key.mT + noise) * 0.4).softmax(-1) @ value

        model.attention.mixed = mixed

    with torch.no_grad():
        spread = torch.cat([model(x) for x in data])
        for head in range(4):
            total = 0.0
            for number, x in enumerate(data):
                draw = torch.Generator().manual_seed(number)
                noise = torch.zeros(len(x), 4, 7, 7).double()
                noise[:, head] = 1e-4 * torch.randn(len(x), 7, 7, generator=draw, dtype=torch.float64)
                model.attention.mixed = inner
                before = model(x)
                nudged(noise)
                total += float((model(x) - before).square().sum())
            outputs.append(total / 1e-8 / (len(data) * 64 * 49))
    model.attention.mixed = inner
    truth = torch.tensor(outputs).double() / ((spread - spread.mean()).square().sum())
    estimate = torch.cat([one.counts for one in consumers])
    assert bool(((estimate / truth > 0.3) & (estimate / truth < 3)).all())
