"""Tables as data: printed in the terminal and put into the report from one source."""

from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text


@dataclass(frozen=True)
class Table:
    """A table of plain strings; every row is as long as `columns`."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse ragged rows.

        Raises:
            ValueError: a row has too few or too many cells.
        """
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table '{self.title}': {len(row)} cells under {len(self.columns)} columns")

    @property
    def numeric(self) -> tuple[bool, ...]:
        """For each column, whether it holds figures and is set flush right."""
        return tuple(
            bool(self.rows) and all(is_figure(row[column]) for row in self.rows) for column in range(len(self.columns))
        )


def is_figure(cell: str) -> bool:
    """Whether a cell is a number, perhaps with a unit or a leading 'x', or a dash for nothing."""
    return cell == "-" or cell.lstrip("x<+-")[:1].isdigit()


def print_tables(tables: Iterable[Table], console: Console) -> None:
    """Print the tables; cells are text, never markup, whatever a model is called."""
    for table in tables:
        shown = RichTable(title=Text(table.title), caption=Text(table.note), title_justify="left",
                          caption_justify="left", title_style="bold", header_style="dim")  # fmt: skip
        for name, numeric in zip(table.columns, table.numeric, strict=True):
            shown.add_column(Text(name), justify="right" if numeric else "left", overflow="fold")
        for row in table.rows:
            shown.add_row(*(Text(cell) for cell in row))
        console.print(shown)
        console.print()
