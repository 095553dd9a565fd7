"""Tables as text: what `print` shows of a result."""

import io

from secateur.rich import Console, Table


def printed(table: Table, width: int = 110) -> str:
    """Draw a table without colours and without blanks at the ends of lines.

    Args:
        table: The table.
        width: Columns that it may take.

    Example:
        >>> table = Table("layer", "left")
        >>> table.add_row("conv1", "50 %")
        >>> print(printed(table))
        ┏━━━━━━━┳━━━━━━┓
        ┃ layer ┃ left ┃
        ┡━━━━━━━╇━━━━━━┩
        │ conv1 │ 50 % │
        └───────┴──────┘
    """
    file = io.StringIO()
    Console(width=width, file=file, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in file.getvalue().rstrip().split("\n"))
