"""Tables of numbers as coloured cells: cosines between categories, prompts that moved between quadrants."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from undertow.report.figure import DIVERGING, SEQUENTIAL, Figure, blank, escaped, plain_plot, require_plotly, wrapped
from undertow.report.tables import ReportError, percent

Kind = Literal["cosine", "share", "count"]


def matrix(
    name: str,
    tables: Mapping[str, Sequence[Sequence[float | None]]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    kind: Kind,
    row_axis: str = "",
    column_axis: str = "",
    label_width: int = 16,
) -> Figure:
    """Return one table of coloured cells with their numbers, or several to choose among.

    Args:
        name: Name of the figure.
        tables: Title of each table -> (rows, columns) of numbers; None leaves a cell empty.
        rows, columns: Their titles.
        kind: "cosine" is coloured from -1 to 1, "share" from 0 to 1; "count" by its share of the row.
        row_axis, column_axis: What the rows and the columns are.
        label_width: Characters after which a title is broken.

    Raises:
        ReportError: If there is no table, one does not fit the titles, or plotly is missing.
    """
    objects = require_plotly()
    fits = all(len(table) == len(rows) and all(len(row) == len(columns) for row in table) for table in tables.values())
    if not tables or not rows or not columns or not fits:
        raise ReportError(f"Every table of {name} needs {len(rows)} rows of {len(columns)} numbers.")
    plot = blank(objects, height=130 + max(34 if kind != "cosine" else 30, 24) * len(rows))
    for index, (title, table) in enumerate(tables.items()):
        colours, texts = _cells(table, kind)
        plot.add_trace(
            objects.Heatmap(
                z=colours,
                x=list(range(len(columns))),
                y=list(range(len(rows))),
                text=texts,
                texttemplate="%{text}",
                textfont={"size": 11},
                customdata=[[[escaped(row), escaped(column)] for column in columns] for row in rows],
                hovertemplate="%{customdata[0]}, %{customdata[1]}: %{text}"
                f"<extra>{escaped(title) if len(tables) > 1 else ''}</extra>",
                zmin=-1 if kind == "cosine" else 0,
                zmax=1,
                colorscale=DIVERGING if kind == "cosine" else SEQUENTIAL,
                showscale=False,
                xgap=2,
                ygap=2,
                visible=index == 0,
            )
        )
    plot.update_xaxes(
        title_text=column_axis,
        tickvals=list(range(len(columns))),
        ticktext=[wrapped(column, label_width) for column in columns],
        range=[-0.5, len(columns) - 0.5],
        showgrid=False,
    )
    plot.update_yaxes(
        title_text=row_axis,
        tickvals=list(range(len(rows))),
        ticktext=[wrapped(row, label_width) for row in rows],
        range=[len(rows) - 0.5, -0.5],
        showgrid=False,
    )
    return Figure(
        name=name,
        plot=plain_plot(plot),
        data={
            "rows": list(rows),
            "columns": list(columns),
            "tables": {title: [[_plain(value) for value in row] for row in table] for title, table in tables.items()},
        },
        description=f"Table of {len(rows)} rows ({', '.join(rows)}) and {len(columns)} columns ({', '.join(columns)}).",
        views={title: (index,) for index, title in enumerate(tables)} if len(tables) > 1 else {},
    )


def _cells(table: Sequence[Sequence[float | None]], kind: Kind) -> tuple[list[list[float | None]], list[list[str]]]:
    values = [[_plain(value) for value in row] for row in table]
    if kind == "cosine":
        return values, [["" if value is None else f"{value:.2f}".replace("0.", ".") for value in row] for row in values]
    if kind == "share":
        return values, [["" if value is None else percent(value, 0) for value in row] for row in values]
    colours: list[list[float | None]] = []
    for row in values:
        total = sum(value or 0 for value in row)
        colours.append([None if value is None else value / total if total else 0.0 for value in row])
    return colours, [["" if value is None else f"{value:,.0f}" for value in row] for row in values]


def _plain(value: Any) -> float | None:
    if value is None or not math.isfinite(float(value)):
        return None
    number = float(np.asarray(value))
    return int(number) if isinstance(value, int | np.integer) else number
