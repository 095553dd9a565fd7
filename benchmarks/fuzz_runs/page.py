"""The page: one row a parser, from the results."""

from typing import Any

HEAD = """# Broken files: what the parsers do with them

Made by `benchmarks/fuzz.py --page` from `benchmarks/results/fuzz.json`. Every parser is given valid files in
which something was broken, two in three by a mutator that knows the format (a value of a JSON tree, a word of
a line, the header of a safetensors file, what a gzip file holds), one in three by one that knows bytes only.
It must read them, or raise an error of ours that says what is wrong and what to do.

| parser | CPU seconds | inputs | read | named errors | tracebacks | crashes | over 10 s | over 1 GB |
|---|---|---|---|---|---|---|---|---|
"""
_KINDS = ("read", "named", "tracebacks", "crashes", "hangs", "large")
_OUTCOMES = ("read", "named", "tracebacks", "crashes", "hangs")


def write_page(data: dict[str, Any]) -> str:
    """The table of all parsers, and the sums."""
    lines = []
    rows = [(name, found["seconds"], found["counts"]) for name, found in data.items()]
    total = {kind: sum(counts.get(kind, 0) for _, _, counts in rows) for kind in _KINDS}
    for name, seconds, counts in [*rows, ("all", sum(seconds for _, seconds, _ in rows), total)]:
        inputs = sum(counts.get(kind, 0) for kind in _OUTCOMES)
        cells = [f"{seconds:,.0f}", f"{inputs:,}", *(f"{counts.get(kind, 0):,}" for kind in _KINDS)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return HEAD + "\n".join(lines) + "\n" + TAIL


TAIL = """
An input follows from the parser's name and its number alone:
`python benchmarks/fuzz.py --parsers coco --input 1234` shows one and what comes of it. Each parser runs in a
process of its own, in which memory is limited; a process that dies is a crash at the input it was trying. A
short run of the same mutators is part of the test suite (`tests/test_fuzz.py`).
"""
