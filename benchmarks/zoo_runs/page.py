"""The page of the zoo benchmark: a summary by family, then a row a model, from the JSON alone."""

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Iterable
from statistics import median
from typing import Any

VERIFIED = ("exact", "renormalised")
SMALL = 0.6
"""A model that is pruned keeps less than this share of its parameters at ratio 0.5."""

PACKAGES = ("torch", "torchvision", "timm", "transformers", "ultralytics", "torch-pruning")
OURS, PEER = "secateur", "torch-pruning"

_PLAIN = ("model input", "model output")
"""Reasons that every model has; not worth a cell."""

Found = dict[str, Any]


def machine() -> Found:
    """What the figures depend on; no host names, no paths."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpus": os.cpu_count(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def our_verdict(found: Found) -> str:
    """One word for a run of secateur: its own verdict, or why there is none."""
    return found.get("failure") or found.get("verdict") or "crashed"


def is_confirmed(found: Found) -> bool:
    """Whether the independent judge agrees with a verdict that passed."""
    return found.get("judged") in ("equal", "renormalised")


def peer_verdict(found: Found) -> str:
    """One word for a run of Torch-Pruning, by the independent judge."""
    if "failure" in found:
        return found["failure"]
    if "params_after" in found and found["params_after"] == found["params_before"]:
        return "nothing pruned"
    words = {"equal": "exact", "renormalised": "renormalised", "unequal": "wrong", "fails": "does not run"}
    return words.get(found.get("judged", ""), "untraced")


def speeds(times: dict[str, dict[str, float | None]]) -> list[str]:
    """The table of how long both libraries analyse, by family."""
    lines = [
        "| family | networks that both analyse | Torch-Pruning's time / ours, median | ours is faster |",
        "|---|--:|--:|--:|",
    ]
    families = list(dict.fromkeys(name.partition(":")[0] for name in times))
    for family in [*families, "all"]:
        chosen = [row for name, row in times.items() if family in (name.partition(":")[0], "all")]
        pairs = ((row[PEER], row[OURS]) for row in chosen)
        ratios = [theirs / ours for theirs, ours in pairs if theirs and ours]
        if ratios:
            ahead = sum(ratio > 1 for ratio in ratios) / len(ratios)
            lines.append(f"| {family} | {len(ratios)} | {median(ratios):.2f} | {ahead:.0%} |")
    return lines


def summary(models: dict[str, dict[str, Found]]) -> list[str]:
    """The table of the families."""
    lines = [
        "| family | models | captured | exact | renormalised | refused | wrong | crashed or out of limits "
        f"| below {SMALL:.0%} left | the judge: confirmed | the judge: unequal or fails "
        "| TP: exact or renormalised | TP: wrong "
        "| TP: does not run or crashes | TP: time or memory | TP: nothing pruned or untraced |",
        "|---" + "|--:" * 15 + "|",
    ]
    families = list(dict.fromkeys(name.partition(":")[0] for name in models))
    for family in [*families, "all"]:
        chosen = {name: model for name, model in models.items() if family in (name.partition(":")[0], "all")}
        lines.append(f"| {family} | {' | '.join(_counts(list(chosen.values())))} |")
    return lines


def _counts(models: list[dict[str, Found]]) -> list[str]:
    ours = [model[OURS] for model in models if OURS in model]
    peer = [peer_verdict(model[PEER]) for model in models if PEER in model]
    verdicts = [our_verdict(found) for found in ours]
    passed = [found for found in ours if our_verdict(found) in VERIFIED]
    counts = [
        len(models),
        sum("captured" in found for found in ours),
        *(verdicts.count(word) for word in ("exact", "renormalised", "refused", "wrong")),
        _count(verdicts, ("crashed", "time limit", "out of memory")),
        sum(found["share_left"] < SMALL for found in passed),
        sum(is_confirmed(found) for found in passed),
        sum(found.get("judged") in ("unequal", "fails") for found in passed),
        _count(peer, VERIFIED),
        _count(peer, ("wrong",)),
        _count(peer, ("does not run", "crashed")),
        _count(peer, ("time limit", "out of memory")),
        _count(peer, ("nothing pruned", "untraced")),
    ]
    return list(map(str, counts))


def _count(words: list[str], wanted: Iterable[str]) -> int:
    return sum(words.count(word) for word in wanted)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _text(text: str, length: int) -> str:
    """One line of a table cell."""
    line = " ".join(text.replace("|", "/").split())
    return line if len(line) <= length else f"{line[: length - 3]}..."


def _reasons(found: Found) -> str:
    """What went wrong, or the top reasons for what was left alone."""
    parts = []
    if our_verdict(found) not in VERIFIED and found.get("error"):
        parts.append(_text(found["error"], 240))
    elif not is_confirmed(found) and our_verdict(found) in VERIFIED:
        parts.append(
            f"judge: {found.get('judged', 'none')} {_text(found.get('judged_why') or '', 80)}".rstrip()
        )
    if "limit_cpu_seconds" in found:
        parts.append(f"limit of {found['limit_cpu_seconds']} CPU seconds a phase")
    if "memory_gib" in found:
        parts.append(f"limit of {found['memory_gib']:g} GiB")
    parts += [_text(limit, 80) for limit in found.get("limits", [])[:1]]
    shown = [entry for entry in found.get("protections", []) if entry["reason"] not in _PLAIN][:3]
    return "; ".join([*parts, *(f"{entry['groups']}x {_text(entry['reason'], 90)}" for entry in shown)])


def _row(name: str, model: dict[str, Found]) -> str:
    ours, peer = model.get(OURS, {}), model.get(PEER, {})
    theirs = peer_verdict(peer) if peer else "-"
    why = peer.get("error") or peer.get("judged_why") or ""
    peak = ours.get("peak_bytes")
    cells = [
        name,
        ours.get("captured", "-"),
        str(ours.get("nodes", "-")),
        f"{ours.get('free', '-')} / {ours.get('protected', '-')}",
        _number(ours.get("share_left"), ".1%"),
        our_verdict(ours) if ours else "-",
        _number(ours.get("relative_error"), ".0e"),
        _number(ours.get("analyse_cpu_seconds"), ".2f"),
        _number(ours.get("prune_cpu_seconds"), ".1f"),
        _number(peak and peak / 2**20, ".0f"),
        _reasons(ours),
        f"{theirs} ({_text(why, 60)})" if why else theirs,
        _number(peer.get("share_left"), ".1%"),
        _number(peer.get("judged_error"), ".0e"),
        _number(peer.get("analyse_cpu_seconds"), ".2f"),
        _number(peer.get("prune_cpu_seconds"), ".1f"),
    ]
    return f"| {' | '.join(cells)} |"


def rows(models: dict[str, dict[str, Found]]) -> list[str]:
    """The table of the models."""
    return [
        "| model | captured on | nodes | groups free / protected | left | verdict | error | analyse | prune "
        "| peak MiB | left alone, or what failed | TP: verdict | TP: left | TP: error | TP: analyse "
        "| TP: prune |",
        "|---|---|--:|--:|--:|---|--:|--:|--:|--:|---|---|--:|--:|--:|--:|",
        *(_row(name, model) for name, model in models.items()),
    ]


INTRODUCTION = """\
# The zoo: which networks can be pruned, and is the result right?

<!-- Generated by benchmarks/zoo.py from benchmarks/results/zoo.json; do not edit. -->

All 121 architectures that torchvision lists; of timm 98 of the 1,371 that it lists, one small one of each of
its 98 modules; of transformers 149 of 622 model types, with tiny configurations; and 35 networks of the YAML
files in `ultralytics`; all with random parameters, on small inputs. What was not tried is not claimed. Each
model runs in its own process for each library, one thread, at most {limit} CPU seconds a phase
(another limit stands in its row) and {memory:g} GiB. The settings are the same for all models: half of the
channels of all groups together (`ratio=0.5`, scope "global", criterion "l2"), nothing protected by hand.

* **captured on**: fake tensors (no arithmetic), or real ones where the model looks at numbers.
* **left**: share of the parameters that is left.
* **verdict**: *exact*, the pruned network equals the original whose removed channels are zero;
  *renormalised*, it does not, and no smaller network could: a mean, a variance or a softmax over channels
  counts the zeros in the one and not in the other. It equals the original with these statistics taken over
  the kept channels; *refused*, an error says why before anything is changed; *wrong*, the check of `prune`
  found a wrong cut and refused to return it; *crashed*, *time limit*, *out of memory*. **error** is the
  relative error of the check, in float64 with random parameters.
* **analyse**: CPU seconds to capture and couple; Torch-Pruning: `build_dependency` and all of
  `get_all_groups`. **prune**: CPU seconds of the whole `prune` with its check; Torch-Pruning: the making of
  its pruner and one step (it checks nothing). The making of the model and a warm-up on a tiny model are
  not counted, nor what they import; what the model itself makes a library import is (PyTorch's compiler and
  sympy, 1.5 s, for some). Many of Torch-Pruning's rows are of an earlier run, with the same versions.
* **peak MiB**: what `analyse` and `prune` add to the resident memory.

Torch-Pruning (TP) runs with the same generic settings: `BasePruner`, `GroupMagnitudeImportance(p=2)`,
`global_pruning=True`, `pruning_ratio=0.5`, `max_pruning_ratio=0.9`, and as `ignored_layers` the layers that
make the output, found by walking the autograd graph back from it; no head counts or other facts about the
model are given, to neither library.

**The judge** is the same for both and uses nothing that a library says. Before the run every floating
parameter and buffer gets random values. Afterwards it finds by these values which positions of each tensor
stayed, sets the removed entries of the original to zero (what makes a removed channel, and what reads it),
and compares the two networks on random inputs, relative error at most 1e-6 in float64, or 1e-4 in float32
where a model does not run in float64 (right ones show 1e-7 there, wrong ones over 5e-3): as they are, and
with norms, means and variances over the positions that are not zero throughout. TP's verdict is the judge's:
*wrong* runs and computes something else; *untraced* cannot be judged. Where a removed channel is not silent
although its parameters are zero (a sigmoid gives 0.5) and no parameter weighs it, the judge calls a right cut
unequal; such cases of ours show "judge: unequal" beside their verdict and are not counted as confirmed.
"""


def write_page(data: Found, times: dict[str, dict[str, float | None]]) -> str:
    """The page that shows the results, and how long every fourth network takes (`zoo_times.py`)."""
    models, facts = data["models"], data["machine"]
    versions = ", ".join(f"{name} {facts[name]}" for name in PACKAGES)
    parts = [
        INTRODUCTION.format(limit=data["limit_cpu_seconds"], memory=data["memory_gib"]),
        "## By family",
        "",
        *summary(models),
        "",
        "How long a first analysis takes, every fourth network (`benchmarks/zoo_times.py`):",
        "",
        *speeds(times),
        "",
        "## By model",
    ]
    for family in dict.fromkeys(name.partition(":")[0] for name in models):
        mine = {
            name.partition(":")[2]: model
            for name, model in models.items()
            if name.partition(":")[0] == family
        }
        parts += ["", f"### {family}", "", *rows(mine)]
    parts += [
        "",
        f"Machine: {facts['cpus']} CPUs ({facts['architecture']}), Python {facts['python']}, {versions}; "
        f"{facts['date']}.",
        "",
        f"    {data['command']}",
        "",
    ]
    return "\n".join(parts)
