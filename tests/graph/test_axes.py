"""The algebra against brute force: what it couples, what it keeps, what it protects."""

import itertools
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from secateur.graph.axes import (
    EMPTY,
    ONE,
    Axis,
    MisalignedError,
    Product,
    Sum,
    axis,
    explain,
    leaves,
    product,
    protect,
    renormalise,
    resolve,
    total,
)
from secateur.graph.keep import count, keep_mask, positions
from secateur.graph.unify import equate, factor, split

SIZES = [1, 2, 3, 4, 6, 8, 12]
LARGEST = 48

steps = st.tuples(
    st.sampled_from(["total", "product", "split", "factor", "equate", "equate", "bind", "protect"]),
    st.integers(0, 99),
    st.integers(0, 99),
)
recipes = st.tuples(
    st.lists(st.sampled_from(SIZES), min_size=2, max_size=6), st.lists(steps, min_size=1, max_size=14)
)


class World:
    """Expressions built by a recipe, with what was demanded of them."""

    def __init__(self, recipe):
        sizes, actions = recipe
        self.exprs = [axis(size) for size in sizes]
        self.sizes = list(sizes)
        self.equated = []
        self.protected = []
        self.splits = []
        self.factorings = []
        for name, first, second in actions:
            getattr(self, f"_{name}")(first % len(self.exprs), second)

    def _add(self, *exprs):
        for expr in exprs:
            self.exprs.append(expr)
            self.sizes.append(expr.size)

    def _total(self, first, second):
        other = second % len(self.exprs)
        if self.sizes[first] + self.sizes[other] <= LARGEST:
            self._add(total(self.exprs[first], self.exprs[other]))

    def _product(self, first, second):
        other = second % len(self.exprs)
        if self.sizes[first] * self.sizes[other] <= LARGEST:
            self._add(product(self.exprs[first], self.exprs[other]))

    def _split(self, first, second):
        try:
            parts = split(self.exprs[first], second % (self.sizes[first] + 1))
        except MisalignedError:
            return
        self.splits.append((self.exprs[first], parts))
        self._add(*parts)

    def _factor(self, first, second):
        size = self.sizes[first]
        divisors = [inner for inner in range(1, size + 1) if size % inner == 0]
        if not divisors:
            return
        try:
            parts = factor(self.exprs[first], divisors[second % len(divisors)])
        except MisalignedError:
            return
        self.factorings.append((self.exprs[first], parts))
        self._add(*parts)

    def _equate(self, first, second):
        """With any other expression of the same size."""
        same = [index for index, size in enumerate(self.sizes) if size == self.sizes[first]]
        other = same[second % len(same)]
        aligned = equate(self.exprs[first], self.exprs[other], why=len(self.equated))
        self.equated.append((self.exprs[first], self.exprs[other], aligned))

    def _bind(self, first, second):
        """With a fresh axis, as the result of an operator would be."""
        self._add(axis(self.sizes[first]))
        equate(self.exprs[first], self.exprs[-1])
        self.equated.append((self.exprs[first], self.exprs[-1], True))

    def _protect(self, first, second):
        if second % 4 == 0:
            protect(self.exprs[first], f"asked for {first}")
            self.protected.append(self.exprs[first])

    def free(self):
        every = dict.fromkeys(leaf for expr in self.exprs for leaf in leaves(expr))
        return [leaf for leaf in every if leaf.reason is None]

    def draw_masks(self, data):
        return {
            leaf: np.array(data.draw(st.lists(st.booleans(), min_size=leaf.size, max_size=leaf.size)))
            for leaf in self.free()
        }


@given(recipes, st.data())
@settings(max_examples=200)
def test_equated_dims_keep_the_same_positions_whatever_is_chosen(recipe, data):
    world = World(recipe)
    keep = world.draw_masks(data)
    for one, two, _ in world.equated:
        assert keep_mask(one, keep).tolist() == keep_mask(two, keep).tolist()


@given(recipes, st.data())
@settings(max_examples=200)
def test_the_pieces_of_a_split_keep_what_the_whole_does(recipe, data):
    world = World(recipe)
    keep = world.draw_masks(data)
    for whole, (left, right) in world.splits:
        pieces = [*keep_mask(left, keep), *keep_mask(right, keep)]
        assert pieces == keep_mask(whole, keep).tolist()


@given(recipes, st.data())
@settings(max_examples=200)
def test_the_parts_of_a_factoring_keep_what_the_whole_does(recipe, data):
    world = World(recipe)
    keep = world.draw_masks(data)
    for whole, (outer, inner) in world.factorings:
        blocks = np.logical_and.outer(keep_mask(outer, keep), keep_mask(inner, keep))
        assert blocks.reshape(-1).tolist() == keep_mask(whole, keep).tolist()


blocks = st.tuples(st.integers(1, 3), st.sampled_from(["axis", "product", "sum"]))


@given(st.integers(2, 4), st.lists(blocks, min_size=2, max_size=4), st.data())
def test_a_sum_of_whole_blocks_factors_into_parts_that_keep_what_the_whole_does(inner_size, terms, data):
    makes = {
        "axis": lambda count: Axis(count * inner_size),
        "product": lambda count: product(axis(count), Axis(inner_size)),
        "sum": lambda count: total(*(Axis(inner_size) for _ in range(count))),
    }
    whole = total(*(makes[kind](count) for count, kind in terms))
    outer, inner = factor(whole, inner_size)
    free = dict.fromkeys(leaves(whole))
    draws = st.lists(st.booleans(), min_size=LARGEST, max_size=LARGEST)
    keep = {leaf: np.array(data.draw(draws)[: leaf.size]) for leaf in free}
    blocks = np.logical_and.outer(keep_mask(outer, keep), keep_mask(inner, keep))
    assert (inner.size, outer.size) == (inner_size, sum(count for count, _ in terms))
    assert blocks.reshape(-1).tolist() == keep_mask(whole, keep).tolist()


@given(st.lists(st.sampled_from([2, 3, 4]), min_size=2, max_size=3), st.data())
def test_a_product_factors_at_every_border_and_inside_its_factors(sizes, data):
    inner_size = data.draw(st.sampled_from([2, 3, 4, 6, 8, 12]))
    whole = product(*map(Axis, sizes))
    try:
        outer, inner = factor(whole, inner_size)
    except MisalignedError:
        borders = [int(np.prod(sizes[at:])) for at in range(len(sizes) + 1)]
        assert not any(inner_size == border for border in borders)
        return
    draws = st.lists(st.booleans(), min_size=4, max_size=4)
    keep = {leaf: np.array(data.draw(draws)[: leaf.size]) for leaf in dict.fromkeys(leaves(whole))}
    blocks = np.logical_and.outer(keep_mask(outer, keep), keep_mask(inner, keep))
    assert (inner.size, outer.size) == (inner_size, whole.size // inner_size)
    assert blocks.reshape(-1).tolist() == keep_mask(whole, keep).tolist()


@given(recipes, st.data())
def test_counts_are_the_sums_of_the_masks(recipe, data):
    world = World(recipe)
    keep = world.draw_masks(data)
    kept = {leaf: int(mask.sum()) for leaf, mask in keep.items()}
    for expr, size in zip(world.exprs, world.sizes, strict=True):
        assert keep_mask(expr, keep).shape == (size,)
        assert count(expr, kept) == keep_mask(expr, keep).sum()


@given(recipes, st.data())
def test_positions_are_those_that_the_mask_drops(recipe, data):
    world = World(recipe)
    keep = world.draw_masks(data)
    for expr in world.exprs:
        gone = {
            int(position)
            for leaf, mask in keep.items()
            if leaf in leaves(expr)
            for position in positions(expr, leaf)[~mask].reshape(-1)
        }
        assert gone == set(np.flatnonzero(~keep_mask(expr, keep)).tolist())


@given(recipes)
@settings(max_examples=200)
def test_refinement_never_loses_positions(recipe):
    world = World(recipe)
    for expr, size in zip(world.exprs, world.sizes, strict=True):
        assert expr.size == resolve(expr).size == size
        assert _occurrences(resolve(expr)).tolist() == [1] * size
        for leaf in set(leaves(expr)):
            rows = positions(expr, leaf)
            assert len(rows) == leaf.size
            assert all(len(set(row)) == len(row) for row in rows.tolist())


def _occurrences(expr):
    """How many leaf positions lie at every position of a dim, per factor: one everywhere."""
    if isinstance(expr, Axis):
        return np.ones(expr.size, dtype=int)
    if isinstance(expr, Sum):
        return np.concatenate([np.zeros(0, dtype=int), *map(_occurrences, expr.terms)])
    result = np.ones(1, dtype=int)
    for part in expr.factors:
        result = np.multiply.outer(result, _occurrences(part)).reshape(-1)
    return result


@given(recipes)
def test_resolved_expressions_are_flat_and_without_trivial_parts(recipe):
    for expr in World(recipe).exprs:
        stack = [resolve(expr)]
        while stack:
            top = stack.pop()
            if isinstance(top, Product) and top is not ONE:
                assert len(top.factors) != 1
                assert not any(isinstance(part, Product) or part.size == 1 for part in top.factors)
                stack.extend(top.factors)
            elif isinstance(top, Sum):
                assert len(top.terms) != 1
                assert not any(isinstance(part, Sum) or part.size == 0 for part in top.terms)
                stack.extend(top.terms)


@given(recipes)
@settings(max_examples=200)
def test_protection_survives_binding_and_refinement(recipe):
    world = World(recipe)
    for expr in world.protected:
        assert all(leaf.reason is not None for leaf in leaves(expr))


@given(recipes)
def test_what_does_not_align_is_protected_somewhere_with_a_reason(recipe):
    world = World(recipe)
    for one, two, aligned in world.equated:
        if not aligned:
            for side in (one, two):
                reasons = [leaf.reason for leaf in leaves(side)]
                assert any(reason is not None for reason in reasons)


@given(recipes)
def test_statistics_survive_binding_and_refinement(recipe):
    sizes, actions = recipe
    world = World((sizes, []))
    renormalise(world.exprs[0], "a mean")
    for name, first, second in actions:
        getattr(world, f"_{name}")(first % len(world.exprs), second)
    assert all(leaf.renormalised == "a mean" for leaf in leaves(world.exprs[0]))


# Order: equations over drawn dims, applied in two orders.

plain_equations = st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=8)
sums = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=3), min_size=2, max_size=8)


class Places:
    """A union-find over single positions: the slow, obvious truth for axes and sums."""

    def __init__(self, size):
        self.parent = list(range(size))

    def find(self, place):
        while self.parent[place] != place:
            place = self.parent[place]
        return place

    def join(self, one, two):
        self.parent[self.find(one)] = self.find(two)


def _solve_sums(dims, sizes, equations):
    """Axes of the given sizes; each dim is a concatenation of some of them."""
    axes = [axis(size) for size in sizes]
    exprs = [total(*(axes[index] for index in dim)) for dim in dims]
    aligned = [equate(exprs[one], exprs[two]) for one, two in equations]
    return axes, exprs, all(aligned)


def _partition(axes):
    """Which positions of the axes are the same position of a leaf."""
    held, start = {}, 0
    for expr in axes:
        for leaf in set(leaves(expr)):
            for at, row in enumerate(positions(expr, leaf)):
                held.setdefault((leaf, at), set()).update((row + start).tolist())
        if expr.size == 1:
            held[start] = {start}
        start += expr.size
    return {frozenset(places) for places in held.values()}


def _equal_sized(dims, sizes, equations):
    wholes = [sum(sizes[index] for index in dim) for dim in dims]
    pairs = [(one % len(dims), two % len(dims)) for one, two in equations]
    return [(one, two) for one, two in pairs if wholes[one] == wholes[two]]


@given(st.lists(st.integers(2, 5), min_size=5, max_size=5), sums, plain_equations)
@settings(max_examples=300)
def test_sums_couple_exactly_what_joining_single_positions_does(sizes, dims, equations):
    equations = _equal_sized(dims, sizes, equations)
    assume(equations)
    axes, _, aligned = _solve_sums(dims, sizes, equations)
    assume(aligned)
    starts = np.cumsum([0, *sizes])
    places = Places(sum(sizes))
    rows = [[place for index in dim for place in range(starts[index], starts[index + 1])] for dim in dims]
    for one, two in equations:
        for left, right in zip(rows[one], rows[two], strict=True):
            places.join(left, right)
    truth = {}
    for place in range(sum(sizes)):
        truth.setdefault(places.find(place), set()).add(place)
    coupled = _partition(axes)
    # A leaf of one position has no axis: there is nothing to choose, so its places are left out.
    singles = {place for group in truth.values() for place in group} - set().union(*coupled)
    assert {frozenset(group) for group in truth.values() if not group & singles} == coupled


@given(st.lists(st.integers(2, 5), min_size=5, max_size=5), sums, plain_equations, st.randoms())
@settings(max_examples=200)
def test_the_order_of_equations_does_not_matter_for_sums(sizes, dims, equations, random):
    equations = _equal_sized(dims, sizes, equations)
    shuffled = [pair if random.random() < 0.5 else pair[::-1] for pair in equations]
    random.shuffle(shuffled)
    first, _, aligned = _solve_sums(dims, sizes, equations)
    second, _, again = _solve_sums(dims, sizes, shuffled)
    assume(aligned and again)
    assert _partition(first) == _partition(second)


def _extents(exprs):
    """Each leaf position as the set of the places it lies at: a picture without names."""
    held, start = {}, 0
    for expr in exprs:
        for leaf in set(leaves(expr)):
            for at, row in enumerate(positions(expr, leaf)):
                held.setdefault((leaf, at), set()).update((row + start).tolist())
        start += expr.size
    return sorted(sorted(places) for places in held.values())


shapes_of_24 = st.sampled_from([(24,), (2, 12), (12, 2), (4, 6), (2, 2, 6), (2, 3, 4), (2, 2, 3, 2), (8, 3)])


@given(st.lists(shapes_of_24, min_size=2, max_size=6), st.randoms())
@settings(max_examples=200)
def test_the_order_of_equations_does_not_matter_for_products(shapes, random):
    pairs = list(itertools.pairwise(range(len(shapes))))
    pictures = []
    for _ in range(2):
        exprs = [product(*map(Axis, shape)) for shape in shapes]
        aligned = [equate(exprs[one], exprs[two]) for one, two in pairs]
        if all(aligned):
            pictures.append(_extents(exprs))
        random.shuffle(pairs)
        pairs = [pair if random.random() < 0.5 else pair[::-1] for pair in pairs]
    assume(len(pictures) == 2)
    assert pictures[0] == pictures[1]


# Single facts.


def test_trivial_sizes_have_no_axis():
    assert axis(1) is ONE
    assert axis(0) is EMPTY
    assert product() is ONE
    assert total() is EMPTY
    a = Axis(3)
    assert product(a, ONE) is a
    assert total(a, EMPTY) is a
    assert product(a, EMPTY) is EMPTY


def test_heads_and_widths_stay_apart():
    width, query = Axis(12), product(Axis(3), Axis(4))
    assert equate(width, query)
    heads, head_width = leaves(width)
    assert keep_mask(width, {heads: np.array([True, False, True])}).tolist() == [True] * 4 + [False] * 4 + (
        [True] * 4
    )
    assert keep_mask(width, {head_width: np.array([True, False, False, True])}).tolist() == (
        [True, False, False, True] * 3
    )


def test_a_concatenation_and_a_channel_shuffle_align():
    joined = total(Axis(4), Axis(4))
    outer, inner = factor(joined, 4)
    assert equate(product(inner, outer), Axis(8))
    assert outer.size == 2
    assert inner.size == 4


def test_products_of_other_sizes_protect_both_sides_with_the_reason():
    one, two = product(Axis(2), Axis(3)), product(Axis(3), Axis(2))
    assert not equate(one, two, why="view at net.py:7")
    for leaf in [*leaves(one), *leaves(two)]:
        assert "cannot be aligned" in leaf.reason
        assert "view at net.py:7" in leaf.reason


def test_only_the_part_that_does_not_align_is_protected():
    good = Axis(5)
    one = total(good, product(Axis(2), Axis(3)))
    two = total(Axis(5), product(Axis(3), Axis(2)))
    assert not equate(one, two)
    assert leaves(good)[0].reason is None
    assert all(leaf.reason for leaf in leaves(one)[1:])


def test_the_occurs_check_protects():
    a = Axis(2)
    outer = Axis(1)
    grown = Product((a, outer))
    a.nested = True
    assert grown.size == a.size
    assert not equate(a, grown)
    assert "would hold itself" in a.reason


def test_equating_dims_of_other_sizes_is_refused():
    with pytest.raises(ValueError, match="dims of 3 and 4 positions cannot be equal"):
        equate(Axis(3), Axis(4))


def test_the_first_reason_stays():
    a = Axis(3)
    protect(a, "first")
    protect(a, "second")
    assert a.reason == "first"


def test_a_reason_of_a_channel_replaces_that_of_a_spatial_dim():
    a = Axis(3)
    protect(a, "a spatial dim", structural=True)
    protect(a, "model output")
    assert (a.reason, a.structural) == ("model output", False)
    protect(a, "a spatial dim", structural=True)
    assert (a.reason, a.structural) == ("model output", False)


def test_binding_carries_protection_both_ways():
    for protected_first in (True, False):
        a, b = Axis(3), Axis(3)
        protect(a if protected_first else b, "why")
        equate(a, b)
        assert leaves(a)[0].reason == leaves(b)[0].reason == "why"


def test_refinement_is_seen_by_everyone_who_holds_the_axis():
    shared = Axis(6)
    one, two = total(shared, Axis(2)), product(Axis(2), shared)
    split(shared, 2)
    assert [leaf.size for leaf in leaves(one)] == [2, 4, 2]
    assert [leaf.size for leaf in leaves(two)] == [2, 2, 4]


@pytest.mark.parametrize("cut", [1, 2, 4, 5])
def test_a_product_is_not_cut_inside_a_block(cut):
    with pytest.raises(MisalignedError, match="cannot be cut after"):
        split(product(Axis(2), Axis(3)), cut)


def test_a_sum_without_whole_blocks_is_not_factored():
    with pytest.raises(MisalignedError):
        factor(total(Axis(3), Axis(2), Axis(3)), 4)
    with pytest.raises(MisalignedError, match="no multiple"):
        factor(Axis(7), 2)


def test_an_axis_times_itself_loses_rows_and_columns():
    a = Axis(3)
    gram = product(a, a)
    assert positions(gram, a)[1].tolist() == [1, 3, 4, 5, 7]
    keep = {a: np.array([True, False, True])}
    assert np.flatnonzero(~keep_mask(gram, keep)).tolist() == [1, 3, 4, 5, 7]
    assert count(gram, {a: 2}) == 4


def test_what_coupled_two_dims_can_be_asked():
    a, b, c = Axis(6), Axis(2), Axis(6)
    equate(a, product(Axis(3), b), why="view")
    equate(a, c, why="add")
    assert explain(a, leaves(a)[1])[0] == "view"
    assert "add" in explain(c, leaves(c)[0]) + explain(a, leaves(a)[0])


# Cost.


def _lines_of_unions(number):
    """How many lines of Python run for so many unifications."""
    rng = np.random.default_rng(0)
    axes = [Axis(8) for _ in range(number)]
    order = rng.integers(0, number, size=(number, 2)).tolist()
    lines = 0

    def count(frame, event, arg):
        nonlocal lines
        lines += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        for one, two in order:
            equate(axes[one], axes[two])
        for held in axes:
            resolve(held)
    finally:
        sys.settrace(before)
    return lines


def test_a_tenfold_of_unifications_takes_about_ten_times_as_many_steps():
    assert 9 < _lines_of_unions(10_000) / _lines_of_unions(1_000) < 14


@pytest.mark.parametrize("direction", [1, -1])
def test_long_chains_of_bindings_need_no_recursion(direction):
    length = 10 * sys.getrecursionlimit()
    axes = [Axis(4) for _ in range(length)]
    for one, two in list(itertools.pairwise(axes))[::direction]:
        equate(one, two)
    protect(axes[0], "the first")
    assert len({id(resolve(held)) for held in axes}) == 1
    assert leaves(axes[-1])[0].reason == "the first"


def test_long_chains_of_refinements_need_no_recursion():
    length = 3 * sys.getrecursionlimit()
    whole = rest = Axis(2 * length)
    for _ in range(length - 1):
        _, rest = split(rest, 2)
    assert len(leaves(whole)) == length
    assert count(whole, dict.fromkeys(leaves(whole), 1)) == length
