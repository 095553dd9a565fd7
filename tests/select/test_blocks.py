"""Latency drives widths: whole blocks where time climbs by stairs, any width where it does not."""

from math import ceil

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.costs.budgeted import Gauge
from secateur.costs.meter import CostMeter, Term
from secateur.score import score
from secateur.select import Budget, select

WIDTHS = (64, 96, 48)


def scored(widths=WIDTHS):
    torch.manual_seed(0)
    layers = [nn.Linear(one, two) for one, two in zip((5, *widths), (*widths, 3), strict=True)]
    model = nn.Sequential(*layers)
    groups = sc.couple(model, torch.zeros(1, 5))
    return groups, score(model, groups, "l2")


def gauge_of(groups, time_of, block=16):
    """A machine on which each group takes a time of its own."""
    terms = [
        Term(lambda kept, axis=group.axis: time_of(kept.get(axis, axis.size)), frozenset([group.axis]))
        for group in groups.prunable
    ]
    return Gauge(CostMeter(terms), block)


def stairs(count):
    return float(ceil(count / 16))


def slope(count):
    return count / 16


def counts(selection):
    return [len(kept) for kept in selection.keep.values()]


@pytest.mark.parametrize("scope", ["curves", "global", "local", "isomorphic"])
@pytest.mark.parametrize("share", ["40%", "55%", "80%"])
def test_where_time_climbs_by_stairs_only_whole_blocks_stay(scope, share):
    groups, scores = scored()
    gauge = gauge_of(groups, stairs)
    selection = select(groups, scores, Budget.of(latency_ms=share), scope=scope, gauge=gauge)
    assert all(count % 16 == 0 for count in counts(selection))
    assert selection.reached <= selection.wanted < selection.reached + 1.0 + 1e-9
    assert any("rather than" in why.rounding for why in selection.why.values())


@pytest.mark.parametrize("scope", ["curves", "global", "local", "isomorphic"])
def test_where_it_climbs_evenly_rounding_does_not_pay(scope):
    groups, scores = scored()
    selection = select(
        groups, scores, Budget.of(latency_ms="50%"), scope=scope, gauge=gauge_of(groups, slope)
    )
    assert any(count % 16 for count in counts(selection))
    assert 0.99 <= selection.reached / selection.wanted <= 1
    assert all(not why.rounding for why in selection.why.values())


def test_a_stair_costs_nothing_to_fill():
    """At the same predicted time the latency-driven choice keeps at least as many channels."""
    groups, scores = scored()
    gauge = gauge_of(groups, stairs)
    timed = select(groups, scores, Budget.of(latency_ms="50%"), scope="local", gauge=gauge)
    by_ratio = select(groups, scores, Budget.of(ratio=0.51), scope="local")
    time = gauge.meter.at({groups[name].axis: len(kept) for name, kept in by_ratio.keep.items()})
    assert time >= timed.reached
    assert sum(counts(timed)) >= sum(counts(by_ratio)) - 16


def test_a_layer_that_costs_no_time_stays_whole():
    groups, scores = scored((64, 64))
    slow, free = (group.axis for group in groups.prunable)
    meter = CostMeter([Term(lambda kept: slope(kept.get(slow, 64)), frozenset([slow]))])
    selection = select(groups, scores, Budget.of(latency_ms="50%"), gauge=Gauge(meter, 16))
    assert counts(selection) == [32, free.size]


def test_steps_follow_the_order_of_the_scope():
    groups, scores = scored()
    gauge = gauge_of(groups, slope)
    for scope in ("global", "local", "isomorphic"):
        timed = select(groups, scores, Budget.of(latency_ms="60%"), scope=scope, gauge=gauge)
        gone = sum(WIDTHS) - sum(counts(timed))
        by_ratio = select(groups, scores, Budget.of(ratio=gone / sum(WIDTHS)), scope=scope)
        assert all(abs(one - two) <= 2 for one, two in zip(counts(timed), counts(by_ratio), strict=True))


@pytest.mark.parametrize("scope", ["curves", "global", "local", "isomorphic"])
def test_out_of_reach_the_smallest_widths_are_chosen(scope):
    groups, scores = scored()
    selection = select(
        groups,
        scores,
        Budget.of(latency_ms=0.001),
        scope=scope,
        min_keep=0.25,
        gauge=gauge_of(groups, slope),
    )
    assert counts(selection) == [16, 24, 12]
    assert selection.reached > selection.wanted


def test_round_to_still_holds():
    groups, scores = scored()
    selection = select(groups, scores, Budget.of(latency_ms="50%"), round_to=4, gauge=gauge_of(groups, slope))
    assert all(count % 4 == 0 for count in counts(selection))


def test_what_the_next_step_saves_is_said():
    groups, scores = scored()
    gauge = gauge_of(groups, stairs)
    selection = select(groups, scores, Budget.of(latency_ms="55%"), gauge=gauge)
    whole = {groups[name].axis: len(kept) for name, kept in selection.keep.items()}
    for name, why in selection.why.items():
        held = groups[name].axis
        if why.saves is not None:
            less = gauge.meter.at({**whole, held: whole[held] - why.step})
            assert why.saves == pytest.approx(selection.reached - less)
