"""Size: the bytes of parameters and buffers."""

from collections.abc import Mapping
from typing import ClassVar

from secateur.costs.meter import size_meter
from secateur.select.budget import THOUSANDS, Budget, budget

_PREFIXES = {"": 1, **THOUSANDS, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_FACTORS = {f"{prefix}{byte}": factor for prefix, factor in _PREFIXES.items() for byte in ("", "B")}


@budget("size_bytes")
class SizeBytes(Budget):
    """Bytes of parameters and buffers that may stay, as a share, a count, or a text: "2MB", "2MiB"."""

    unit = "bytes"
    factors: ClassVar[Mapping[str, float]] = _FACTORS
    example = ", '2MB' or '2MiB'"
    meter = staticmethod(size_meter)
