"""The table of docs/hugging-face.md, which `scripts/generate` makes of `results/hugging_face.json`."""

import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import Any

_FORMS = {"plain": "plain", "remote code": "code"}


def table(found: dict[str, Any]) -> str:
    """What was refused or does not generate, then a line for each model.

    Args:
        found: The results: versions, and rows by model and request.
    """
    rows = found["rows"]
    requests = list(dict.fromkeys(row["request"] for row in rows))
    by_place = {(row["model"], row["request"]): row for row in rows}
    lines = [*_summary(rows, found["transformers"], found["torch"]), "", *_odd(rows)]
    lines += ["", f"| model | {' | '.join(requests)} |", "|---|" + "---|" * len(requests)]
    for model in dict.fromkeys(row["model"] for row in rows):
        cells = [_cell(by_place.get((model, request))) for request in requests]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _summary(rows: Sequence[dict[str, Any]], transformers: str, torch: str) -> list[str]:
    read = [row for row in rows if "errors" in row]
    proofs = Counter(proof.partition(",")[0] for row in rows for proof in row.get("proof", ()))
    worst = max(error for row in read for error in row["errors"].values())
    shown = ", ".join(f"{count} {kind}" for kind, count in proofs.most_common())
    away = f"at most {worst:.0e} away from the model's in their" if worst else "bit-equal"
    generating = sum(row["generates"] for row in read)
    told = f"""
        {len(read)} of {len(rows)} cuts of tiny random models were written and read back by transformers
        {transformers} (torch {torch.partition("+")[0]}) in a fresh process, with {away} outputs;
        {generating} of them generate the same tokens, with and without cache, for a batch and by beams.
        Proofs of the cuts: {shown}. A cell says how the folder is read, `plain` or with `code` beside the
        weights (`code*`: with corrected methods), and the share of parameters left. Made by
        `python benchmarks/hugging_face.py --json benchmarks/results/hugging_face.json`.
    """
    return textwrap.wrap(" ".join(told.split()), 118, break_long_words=False, break_on_hyphens=False)


def _odd(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What was refused, with the reason, then what else to know; by model, with the requests that say so."""
    refused: dict[tuple[str, str], list[str]] = {}
    others: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if "why" in row:
            refused.setdefault((row["model"], f"refused. {_line(row['why'])}"), []).append(row["request"])
        for layer, why in row.get("not_dropped", {}).items():
            what = f"`{layer}` cannot be dropped, `{row.get('dropped')}` was. {_line(why)}"
            others.setdefault((row["model"], what), []).append(row["request"])
        for note in (*row.get("limits", ()), *row.get("notes", ())):
            others.setdefault((row["model"], _line(note)), []).append(row["request"])
    found = [
        f"* {model} ({'; '.join(requests)}): {what}"
        for (model, what), requests in (*refused.items(), *others.items())
    ]
    return found if refused else ["None was refused.", *(["", *found] if found else [])]


def _line(text: str) -> str:
    """A reason on one line, without what would be read as markup."""
    return re.sub(r"\s*\n\s*", "; ", text.strip()).replace("|", "\\|").replace("*", "\\*")


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "not run"
    if row["form"] == "refused":
        return "**refused**"
    return f"{_FORMS[row['form']]}{'*' if row.get('corrects') else ''}, {100 * row['left']:.0f} %"
