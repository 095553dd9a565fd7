"""The law of every trait, run on the samples of every rule; and whether a trait is forgotten."""

from functools import cache

import pytest
from calls import OneCall
from replay import Recording
from tagged import tagged_calls
from trait_laws import LAWS

from secateur.coupling.rule import rule_of, rules, traits_of
from secateur.graph.trait import Trait

UNWRITTEN = {"aten.empty", "aten.empty_like", "aten.new_empty"}
"""Their numbers are those that lay in memory."""

OPS = [op for op in rules if not rules[op].law.startswith("barrier: ") and op not in UNWRITTEN]
DECLARED = [(op, trait) for op in OPS for trait in rules[op].traits]

UNDECIDED = {Trait.RESAMPLES, Trait.ACTIVATION}
"""What many other operators do as well: a sum also gives twice the sum of twice the numbers."""

_REAL_ONLY = "of real numbers only"
_FACTORS = "a product of two activations, of which none is a weight"

EXCEPTIONS = {
    Trait.POINTWISE: {
        "aten.atleast_1d": "of a single number it makes a vector",
        "aten.expand_as": "it copies along the positions of another tensor",
        "aten.smooth_l1_loss": "with a reduction it is not",
    },
    Trait.ARITHMETIC: {
        "aten.expand_as": "it copies along the positions of another tensor",
        **dict.fromkeys(["aten.conj", "aten.real"], _REAL_ONLY),
    },
    **{
        trait: dict.fromkeys(["aten.conj", "aten.real"], _REAL_ONLY)
        for trait in (Trait.REPEATS, Trait.MOVES, Trait.ROW_MAJOR)
    },
    Trait.SELECTS: {
        "aten.quantile": "between two numbers it interpolates",
        "aten.nanquantile": "between two numbers it interpolates",
        "aten.embedding_bag": "in one of three modes",
    },
    Trait.VIEW: {
        **dict.fromkeys(["aten.conj", "aten.real", "aten.resolve_conj", "aten.resolve_neg"], _REAL_ONLY),
    },
    Trait.LAYER: {
        "aten.bmm": _FACTORS,
        "aten.inner": _FACTORS,
        "aten.tensordot": _FACTORS,
        "aten.vdot": _FACTORS,
        "torchvision.deform_conv2d": "it reads where another tensor says",
    },
}
"""Operators that fulfil a law and do not have the trait, with the reason."""


ONLY_SOMETIMES = {
    "conj_physical": _REAL_ONLY,
    "nan_to_num": "of finite numbers only",
    "nextafter": "but for the last bit",
    **dict.fromkeys(["eq", "logical_or", "ne"], "of numbers that are never equal, and never zero"),
}
"""Element-wise operators without a rule that are more than that for the numbers of a sample."""


@cache
def calls_of(op):
    return [OneCall.of(op, sample) for sample in rules[op].samples]


@cache
def answers(op, trait):
    """What the law of a trait says of each sample in which the trait is declared, or would be."""
    condition = rules[op].traits_if
    return [LAWS[trait](call) for call in calls_of(op) if condition is None or condition(call.node)]


def test_every_trait_has_a_law_and_an_operator():
    assert set(LAWS) == set(Trait)
    assert {trait for _, trait in DECLARED} == set(Trait)


@pytest.mark.parametrize(("op", "trait"), DECLARED, ids=lambda one: getattr(one, "name", one))
def test_a_trait_is_true_of_every_sample(op, trait):
    found = answers(op, trait)
    assert found
    assert False not in found or (trait is Trait.PACKS and True in found)


@pytest.mark.parametrize(
    "trait", [trait for trait in Trait if trait not in UNDECIDED], ids=lambda one: one.name
)
def test_a_trait_that_is_true_of_every_sample_is_declared(trait):
    excepted = EXCEPTIONS.get(trait, {})
    forgotten = [op for op in OPS if trait not in _known(op) and op not in excepted and _fulfils(op, trait)]
    assert not forgotten, forgotten
    assert not {op for op in excepted if op not in OPS or trait in _known(op) or not _fulfils(op, trait)}


def _known(op):
    """What is declared of an operator, and what goes without saying: a copy is affine too."""
    known = rules[op].traits
    also = {Trait.MOVES: Trait.REPEATS | Trait.ARITHMETIC, Trait.REPEATS: Trait.MOVES}
    return known | next((other for trait, other in also.items() if trait in known), Trait.NONE)


def _fulfils(op, trait):
    found = [answer for answer in answers(op, trait) if answer is not None]
    return bool(found) and (any(found) if trait is Trait.PACKS else all(found))


def test_an_element_wise_operator_without_a_rule_is_only_that():
    found = {}
    for name, sample, _, recording in tagged_calls():
        if rule_of(f"aten.{name.partition('.')[0]}") is not None:
            continue  # in place
        call = OneCall.of(recording.graph.nodes[-1].op, sample)
        assert traits_of(call.node) is Trait.POINTWISE, name
        assert LAWS[Trait.POINTWISE](call) is not False, name
        more = {trait for trait in (Trait.ARITHMETIC, Trait.REPEATS, Trait.SELECTS) if LAWS[trait](call)}
        if more:
            found[name.partition(".")[0].removesuffix("_")] = more
    assert found.keys() == ONLY_SOMETIMES.keys(), found


def test_the_traits_of_a_call_follow_its_arguments_and_its_in_place_form():
    def traits(sample):
        return traits_of(Recording.of(sample).graph.nodes[-1])

    assert traits("T(2, 3).clone().add_(T(3))") == rules["aten.add"].traits
    assert Trait.VIEW in traits("F.dropout(T(2, 3), training=False)")
    assert traits("F.dropout(T(2, 3), training=True)") is Trait.NONE
    assert traits("T(2, 4).float().view(torch.int32)") is Trait.NONE
    assert traits("torch.max(T(2, 3), T(2, 3))") is Trait.NONE
    assert traits("torch.gradient(T(2, 4), dim=1)[0]") is Trait.NONE
