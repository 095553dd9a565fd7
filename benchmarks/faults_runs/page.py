"""The tables of docs/proof.md: what each proof saw of the planted faults, from the JSON alone."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from faults_runs.kinds import KINDS
from faults_runs.reasons import REASONS

BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"

Found = Mapping[str, Any]
Proofs = Mapping[str, Mapping[str, Found]]
"""By the proof and the network: what `Trial` holds."""

_EXAMPLES = 3


def write_page(text: str, proofs: Proofs) -> str:
    """Put the tables between the marks of a page.

    Raises:
        ValueError: The page has no marks.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs the lines {BEGIN} and {END}")
    sections = (_by_family(proofs), _by_kind(proofs), _blind(proofs), _invisible(proofs), _refused(proofs))
    return f"{before}{BEGIN}\n\n" + "\n\n".join(sections) + f"\n\n{END}{after}"


def _table(head: Iterable[str], rows: Iterable[Iterable[object]], numbers: int = 0) -> str:
    """A Markdown table; all columns from `numbers` on are aligned to the right, if it is given."""
    names = list(head)
    line = ["--:" if numbers and at >= numbers else "---" for at in range(len(names))]
    cells = [names, line, *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _tally(networks: Iterable[Found]) -> Counter[str]:
    """Networks that were cut, faults planted, seen, unseen and real, and unseen as nothing shows them."""
    count: Counter[str] = Counter()
    for found in networks:
        count["networks"] += "refused" not in found
        count["planted"] += sum(found.get("planted", {}).values())
        count["seen"] += sum(found.get("seen", {}).values())
        count["blind"] += len(found.get("unseen", ()))
        count["nothing"] += sum(map(len, found.get("shown_by_none", {}).values()))
    return count


def _by_family(proofs: Proofs) -> str:
    families = sorted({found["family"] for held in proofs.values() for found in held.values()})
    head = ["family"]
    for proof in proofs:
        head += [f"{proof}: networks", "planted", "seen", "real, unseen", "shown by no output"]
    rows = []
    for family in [*families, "all"]:
        row: list[object] = [family]
        for held in proofs.values():
            count = _tally(found for found in held.values() if family in (found["family"], "all"))
            row += [count[name] for name in ("networks", "planted", "seen", "blind", "nothing")]
        rows.append(row)
    return "### By family\n\n" + _table(head, rows, 1)


def _by_kind(proofs: Proofs) -> str:
    head = ["kind", "what is wrong"]
    for proof in proofs:
        head += [f"{proof}: planted", "seen", "real, unseen"]
    rows = []
    for kind, function in KINDS.items():
        row: list[object] = [kind, (function.__doc__ or "").splitlines()[0]]
        for held in proofs.values():
            blind = sum(fault["kind"] == kind for found in held.values() for fault in found.get("unseen", ()))
            row += [sum(found.get(name, {}).get(kind, 0) for found in held.values()) for name in _COUNTED]
            row += [blind]
        rows.append(row)
    return "### By kind\n\n" + _table(head, rows, 2)


_COUNTED = ("planted", "seen")


def _blind(proofs: Proofs) -> str:
    """Real faults that a proof did not see: a row for each network."""
    parts = ["### Real faults that were not seen"]
    for proof, held in proofs.items():
        rows = []
        for name, found in held.items():
            blind = found.get("unseen", ())
            if blind:
                worst = max(blind, key=lambda fault: fault["true_error"] or float("inf"))
                error = "infinite" if worst["true_error"] is None else f"{worst['true_error']:.2g}"
                where = f"{worst['kind']} in {worst['where']}: {worst['what']}"
                share = f"{len(blind)} of {_tally([found])['planted']}"
                rows.append((name, share, where, error, worst["verdict"]))
        text = _table(("network", "unseen", "the worst of them", "true error", "verdict"), rows)
        parts.append(f"**{proof}**\n\n" + (text if rows else "None."))
    return "\n\n".join(parts)


def _invisible(proofs: Proofs) -> str:
    """Faults that change no output, by the reason."""
    places: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for proof, held in proofs.items():
        for name, found in held.items():
            for reason, faults in found.get("shown_by_none", {}).items():
                places[reason][proof] += [f"{name}, {fault.partition(':')[0]}" for fault in faults]
    rows = []
    for reason, by_proof in sorted(places.items(), key=lambda item: -sum(map(len, item[1].values()))):
        named = list(dict.fromkeys(place for held in by_proof.values() for place in held))
        shown = "; ".join(named[:_EXAMPLES]) + ("; ..." if len(named) > _EXAMPLES else "")
        rows.append((REASONS[reason], shown, *(len(by_proof.get(proof, ())) for proof in proofs)))
    return "### Faults that no output shows\n\n" + _table(("why", "where", *proofs), rows)


def _refused(proofs: Proofs) -> str:
    parts = ["### Networks without a cut"]
    for proof, held in proofs.items():
        whole = Counter(found["refused"] for found in held.values() if "refused" in found)
        words = "; ".join(f"{times}: {why}" for why, times in whole.most_common())
        parts.append(f"**{proof}**: {words or 'none'}.")
    return "\n\n".join(parts)
