"""The report as JSON: every field under its own name, for machines, and to render other formats later.

Numbers are not rounded. JSON has no infinity, so a loss or error that is not finite becomes the string "NaN",
"Infinity" or "-Infinity", which reading turns back.
"""

import json as encoding
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from secateur.errors import CheckpointError
from secateur.reports.content import Report
from secateur.reports.formats import formats, suffixes

SCHEMA = "secateur-report-1"


@suffixes(".json")
@formats("json")
def json(report: Report) -> str:
    """Render a report as one JSON object.

    Example:
        >>> print(json(Report("VGG-11", "2026-01-31", "secateur demo", "zoo:vgg11"))[:35])
        {
          "schema": "secateur-report-1",
    """
    content = {"schema": SCHEMA, **_finite(asdict(report))}
    return encoding.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def parse(text: str, source: str = "report") -> Report:
    """Turn JSON back into the report it was rendered from.

    Args:
        text: What `json` returned.
        source: Where it came from, for messages.

    Raises:
        CheckpointError: It is no JSON, or no report.

    Example:
        >>> report = Report("VGG-11", "2026-01-31", "secateur demo", "zoo:vgg11")
        >>> parse(json(report)) == report
        True
    """
    try:
        content = encoding.loads(text)
        if not isinstance(content, dict) or content.pop("schema", None) != SCHEMA:
            raise CheckpointError(
                f"{source} is JSON, but no report of schema {SCHEMA}",
                do="pass a report.json that secateur wrote",
            )
        return TypeAdapter(Report).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        context = [f"{place or 'the object'}: {first['msg']}"]
        raise CheckpointError(f"{source} is no report", context, "render it again with secateur") from error
    except (ValueError, RecursionError) as error:
        do = "pass a report.json that secateur wrote"
        raise CheckpointError(f"{source} is no JSON", [str(error)], do) from error


def read_report(path: Path) -> Report:
    """Read a report that was written as JSON.

    Raises:
        CheckpointError: The file is missing, truncated or no report.

    Example:
        >>> read_report(Path("nowhere/report.json"))
        Traceback (most recent call last):
        ...
        secateur.errors.CheckpointError: cannot read report nowhere/report.json
          No such file or directory
          pass a report.json that secateur wrote
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        do = "pass a report.json that secateur wrote"
        raise CheckpointError(f"cannot read report {path}", [error.strerror or str(error)], do) from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"report {path} is no UTF-8 text", [str(error)]) from error
    return parse(text, str(path))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
