"""The chapter of the page on the default with data."""

from real_weights_runs.page import Row, number, prose, table


def default(found: dict[str, list[Row]]) -> list[str]:
    """The chapter on the default with data."""
    detector = [
        [
            f"{row['left']:.0%}",
            row["method"],
            f"{row['kept']} of {row['of']}",
            str(row["new"]),
            number(row["average_precision"]),
            str(row["cpu_seconds"]),
        ]
        for row in found["yolo"]
    ]
    encoder = [
        [
            f"{row['left']:.0%}",
            row["method"],
            *(number(row[key], 3) for key in ("pearson", "spearman")),
            *(f"{row[key]:.0%}" for key in ("same_answer", "paraphrases_found")),
            str(row["cpu_seconds"]),
        ]
        for row in found["minilm"]
    ]
    return [
        "## With data, at the same MACs",
        "",
        *prose(
            "`sc.prune(model, x, macs=..., data=...)` as it is, beside `l2` over all groups with the same "
            "recovery by the same data; no labels, no training. The detector learns from half of the photos, "
            "their crops and mirror images, and is judged on the other half, both ways; the encoder from the "
            "16 other sentences. CPU seconds are those of choosing and recovery."
        ),
        *table(["MACs left", "method", "kept", "new", "AP", "CPU s"], detector),
        *table(["MACs left", "method", "Pearson", "Spearman", "same answer", "neighbour", "CPU s"], encoder),
    ]
