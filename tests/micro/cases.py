"""The table of all one-operator networks, by name."""

import importlib
from pathlib import Path

from case import Case

FAMILIES = sorted(path.stem for path in Path(__file__).parent.glob("nets_*.py"))

CASES: dict[str, Case] = {}
for _family in FAMILIES:
    for _case in importlib.import_module(_family).CASES:
        if _case.name in CASES:
            raise ValueError(f"two networks are called '{_case.name}'")
        CASES[_case.name] = _case
