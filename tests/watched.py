"""Every verb on a model, with a snapshot of all that it could change around each."""

import contextlib
from functools import partial

import snapshot
import torch

import secateur as sc
from secateur.errors import SecateurError


def all_verbs(model, inputs, data, request, folder):
    """The verbs, each as a call; those that need a result are given it."""

    def prune(**options):
        return sc.prune(model, inputs, **request, **options)

    first = {
        "couple": lambda: sc.couple(model, inputs),
        "measure": lambda: sc.measure(model, inputs),
        "plan": lambda: sc.plan(model, inputs, **request),
        "latency": lambda: sc.latency(model, inputs, repeats=3),
        "prune by activations": partial(prune, criterion="activation-mean", data=data, check=False),
        "prune by gradients": partial(prune, criterion="taylor", data=data, check=False),
        "drop": lambda: sc.drop_blocks(model, inputs, count=1),
        "prune": prune,
    }
    second = {
        "check": lambda result: sc.check(model, result.plan, inputs),
        "recover": lambda result: sc.recover(result, data),
        "carry": lambda result: sc.carry(torch.optim.Adam(model.parameters()), result),
        "explain": sc.explain,
        "apply": lambda result: result.plan.apply(model),
        "save and load": lambda result: sc.load(sc.save(result, folder / "half"), model),
    }
    return first, second


def require_untouched(state, first, second):
    """Run the verbs, each of which may refuse a model and may change nothing.

    Args:
        state: Gives everything that may not change.
        first: Verbs by name; the last one gives a result.
        second: Verbs by name that are given the result.

    Returns:
        The result, None if it was refused; and the names of the verbs that did their work.
    """
    before, result, done = state(), None, []

    def run(verb, call):
        made = None
        with contextlib.suppress(SecateurError):
            made = call()
            done.append(verb)
        after = state()
        changed = {part for part in after if after[part] != before[part]}
        assert not changed, f"{verb} changed {changed}"
        return made

    for verb, call in first.items():
        result = run(verb, call)
    for verb, call in second.items() if result is not None else ():
        run(verb, partial(call, result))
    return result, done


def of_model_and_process(model):
    """What a model and the process hold, and what the classes of its modules do."""
    kinds = {kind.__qualname__: kind for module in model.modules() for kind in type(module).__mro__[:-1]}
    return {
        "model": snapshot.of_model(model),
        "process": snapshot.of_process(),
        "classes": {name: snapshot.of_code(kind) for name, kind in kinds.items()},
    }
