"""The proof of a drop in steps: with its cache a language model computes what it does with all words at once.

    at once   f(w_1 ... w_n)                                    the original without the blocks' branches
    in steps  f(w_1 ... w_n-2), f(w_n-1; cache), f(w_n; cache)  the dropped model

A cache knows layers by their numbers: a gap in them goes unseen in a single pass and gives other words in the
next. The original itself is run both ways first: what it does not do, the dropped model need not.
"""

import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from secateur.capture import cast_inputs
from secateur.capture.inputs import as_call, fields_of, output_tensors
from secateur.capture.outside import outside_kept
from secateur.capture.randomness import OwnNumbers
from secateur.capture.state import find_state
from secateur.plans.plan import Plan
from secateur.proof.drawing import randomised

_COMPARED = 3
"""The last words, of which the first comes out of those before the steps."""

_LEAST = 8
"""Words in a sequence; a shorter example is repeated."""

_WORDS = ("decoder_input_ids", "decoder_inputs_embeds", "input_ids", "inputs_embeds")
"""What may hold the words that go with the cache, by precedence."""

_LEFT_OUT = {"labels", "use_cache", "logits_to_keep"}
_LOOSEST = 1e-3
"""Beyond this the original's own steps are no steps of its run at once."""

_ROUNDING = 1e-9
_GROWTH = 100
"""So many times the original's own rounding is still rounding."""


@dataclass(frozen=True)
class Stepped:
    """What the proof in steps found.

    Attributes:
        failure: What is wrong, as words; None if nothing is.
        limits: What could not be proven, as words.
    """

    failure: str | None = None
    limits: tuple[str, ...] = ()


def verify_steps(
    model: nn.Module, plan: Plan, reference: Plan, example_inputs: Any, seed: int = 0
) -> Stepped:
    """Prove that a dropped model computes with its cache what the original without the blocks does at once.

    A model whose forward takes no `use_cache`, or that returns no cache, has nothing to prove.

    Args:
        model: The original; not changed.
        plan: What drops its blocks.
        reference: What puts in their place what hands on its input, and leaves all else as it is.
        example_inputs: Inputs of both.
        seed: For the random parameters.
    """
    words = _Words.of(model, example_inputs)
    if words is None:
        return Stepped()
    failure: Exception | None = None
    for dtype in (torch.float64, torch.float32):
        with torch.no_grad(), outside_kept(model, seed), OwnNumbers(seed):
            original = randomised(model, seed, dtype=dtype).eval()
            given = cast_inputs(words.given, dtype)
            try:
                state = find_state(original, original(**given, use_cache=True), (), given)
            except Exception as error:  # noqa: BLE001 - a foreign model may raise anything
                failure = error
                continue
            if not state:
                return Stepped()
            return _compared(original, (plan, reference), list(_ways(words, given)), state)
    told = f"steps with a cache are not proven, as the original fails: {failure}".partition("\n")[0]
    return Stepped(limits=(told[:200],))


@dataclass(frozen=True)
class _Way:
    """One way to come to the last words in steps.

    Attributes:
        name: In words.
        whole: The call of all words at once.
        pieces: The calls in steps.
    """

    name: str
    whole: Mapping[str, Any]
    pieces: Sequence[Mapping[str, Any]]


def _compared(
    original: nn.Module, plans: tuple[Plan, Plan], ways: list[_Way], state: Collection[str]
) -> Stepped:
    rounding: dict[str, float] = {}
    limits: list[str] = []
    for way in ways:
        try:
            error = _error(_at_once(original, way, state), _in_steps(original, way, state))
        except Exception as failure:  # noqa: BLE001 - as above
            told = f"it fails: {failure}".partition("\n")[0]
        else:
            if error <= _LOOSEST:
                rounding[way.name] = error
                continue
            told = f"its own are off by {error:.1e}"
        if way is ways[0]:
            limits.append(f"steps with a cache are not proven, {told}"[:200])
    plan, reference = plans
    proven = [way for way in ways if way.name in rounding]
    silent = reference.apply(original).eval()
    expected = {way.name: _at_once(silent, way, state) for way in proven}
    del silent
    dropped = plan.apply(original).eval()
    for way in proven:
        try:
            error = _error(expected[way.name], _in_steps(dropped, way, state))
        except Exception as failure:  # noqa: BLE001 - as above
            return Stepped(f"{way.name} it does not run: {failure}".partition("\n")[0], tuple(limits))
        if not error <= max(_ROUNDING, _GROWTH * rounding[way.name]):
            return Stepped(f"{way.name} its numbers differ by {error:.2g}", tuple(limits))
    found = _generated(original, dropped, ways[0].whole)
    return replace(found, limits=(*limits, *found.limits))


def _generated(original: nn.Module, dropped: nn.Module, given: Mapping[str, Any]) -> Stepped:
    """What `generate` adds: it makes the cache itself, from the config of the whole model."""
    prompt = {name: held for name, held in given.items() if not name.startswith("decoder_")}
    try:
        is_able = _agrees(original, prompt)
    except Exception:  # noqa: BLE001 - as above
        return Stepped()
    try:
        if is_able and not _agrees(dropped, prompt):
            return Stepped("generate gives other words with a cache than without")
    except Exception as error:  # noqa: BLE001 - as above
        told = f"generate fails with a cache, {type(error).__name__}: {error}".partition("\n")[0]
        return Stepped(limits=(told[:200],))
    return Stepped()


def _agrees(model: nn.Module, prompt: Mapping[str, Any]) -> bool:
    """Whether a model generates the same words with its cache as without."""
    generate: Any = getattr(model, "generate", None)
    if generate is None:
        return False
    asked = {**prompt, "max_new_tokens": _COMPARED, "do_sample": False, "num_beams": 1}
    return torch.equal(*(generate(**asked, use_cache=use_cache) for use_cache in (True, False)))


def _at_once(model: nn.Module, way: _Way, state: Collection[str]) -> Tensor:
    """What the last words give, all words at once and without a cache."""
    return _main(model(**way.whole, use_cache=False), state)[:, -_COMPARED:]


def _in_steps(model: nn.Module, way: _Way, state: Collection[str]) -> Tensor:
    """The same in steps."""
    past: dict[str, Any] = {}
    found: list[Tensor] = []
    for piece in way.pieces:
        output = model(**piece, **past, use_cache=True)
        found.append(_main(output, state)[:, -1:])
        past = {name: fields_of(output)[name] for name in state}
    return torch.cat(found[-_COMPARED:], 1)


def _main(output: Any, state: Collection[str]) -> Tensor:
    return output_tensors(output, state)[0]


def _error(one: Tensor, two: Tensor) -> float:
    return float((one - two).abs().max() / one.abs().max())


@dataclass(frozen=True)
class _Words:
    """How a model is given words that go with its cache.

    Attributes:
        given: The arguments, by name; at least `_LEAST` words.
        name: The one that holds the words.
        along: Those that go along with them, a column for each word.
        mask: The parameter that says which words count; empty if there is none.
        is_first: What else there is goes with the first words only.
    """

    given: Mapping[str, Any]
    name: str
    along: frozenset[str]
    mask: str
    is_first: bool

    @classmethod
    def of(cls, model: nn.Module, example_inputs: Any) -> "_Words | None":
        """Read the example inputs of a model; None if it keeps no cache of words."""
        parameters = inspect.signature(model.forward).parameters
        if "use_cache" not in parameters:
            return None
        args, kwargs = as_call(example_inputs)
        named = dict(zip(parameters, args, strict=False)) | kwargs
        given = {name: held for name, held in named.items() if name not in _LEFT_OUT and held is not None}
        has_encoder = "decoder_input_ids" in parameters
        if has_encoder and "input_ids" in given and not {*_WORDS[:2]} & given.keys():
            given["decoder_input_ids"] = given["input_ids"].clone()
        name = next((name for name in _WORDS if name in given), None)
        if name is None or (has_encoder and name not in _WORDS[:2]):
            return None
        along = frozenset(
            other
            for other, held in given.items()
            if isinstance(held, Tensor)
            and held.shape[:2] == given[name].shape[:2]
            and other.startswith("decoder_") == has_encoder
        )
        mask = "decoder_attention_mask" if has_encoder else "attention_mask"
        if mask in given and mask not in along:  # a mask of pairs of words
            return None
        times = -(-_LEAST // given[name].shape[1])
        if times > 1:
            given = {
                key: held.repeat(1, times, *[1] * (held.dim() - 2)) if key in along else held
                for key, held in given.items()
                if not (key in along and "position" in key)
            }
        return cls(given, name, along & given.keys(), mask if mask in parameters else "", not has_encoder)


def _ways(words: _Words, given: Mapping[str, Any]) -> Iterator[_Way]:
    size = given[words.name].shape[1]
    single = (size - 2, size - 1, size)
    yield _way("with a cache", words, given, single)
    yield _way("with a cache that is filled in two parts", words, given, (size - 4, *single))
    if words.mask:
        shape = given[words.name].shape[:2]
        mask = given.get(words.mask, torch.ones(shape, dtype=torch.long, device=given[words.name].device))
        mask = mask.clone()
        mask[0, :2] = 0
        padded = _Words(words.given, words.name, words.along | {words.mask}, words.mask, words.is_first)
        yield _way("with a cache and padding on the left", padded, {**given, words.mask: mask}, single)


def _way(name: str, words: _Words, given: Mapping[str, Any], ends: Sequence[int]) -> _Way:
    starts = (0, *ends[:-1])
    pieces = [
        {
            key: held[:, (0 if key == words.mask else start) : end] if key in words.along else held
            for key, held in given.items()
            if key in words.along or not start or not words.is_first
        }
        for start, end in zip(starts, ends, strict=True)
    ]
    return _Way(name, given, pieces)
