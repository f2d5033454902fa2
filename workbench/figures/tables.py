# ruff: noqa: RUF001
"""Tables: rows of named values, shown in notebooks and written as CSV and LaTeX."""

from __future__ import annotations

import csv
import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from ..files import replace_text, storing
from ..records import is_number
from ..studies.scores import CheckpointScore

LATEX = {  # characters that are markup in LaTeX or missing in its default fonts
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "×": r"$\times$", "±": r"$\pm$", "·": r"$\cdot$", "…": r"\ldots{}", "–": "--", "γ": r"$\gamma$", "β": r"$\beta$", "σ": r"$\sigma$",
    "²": r"$^2$", "→": r"$\rightarrow$", "≥": r"$\geq$", "≤": r"$\leq$", "∞": r"$\infty$",
}  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """A number, perhaps a mean with its spread.

    Attributes
    ----------
    mean, sd, n
        The number; its standard deviation, or None; the number of values.
    about
        Tooltip: what the number depends on, such as its protocol.
    show_n
        Whether to write n, which differs from that of the row.
    """

    mean: float
    sd: float | None = None
    n: int = 1
    about: str = ""
    show_n: bool = False

    @classmethod
    def of(cls, values: Sequence[float], about: str = "", show_n: bool = False) -> Measured:
        """Mean and standard deviation (n - 1) of values."""
        n = len(values)
        mean = math.fsum(values) / n
        return cls(mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1)) if n > 1 else None, n, about, show_n)

    def __str__(self) -> str:
        """18.65 ± 0.21: two digits of the deviation, and as many decimals of the mean. Without deviation, five digits."""
        number = f"{self.mean:.5g}"
        if self.sd is not None and math.isfinite(self.sd):
            digits = 1 - math.floor(math.log10(self.sd)) if self.sd else 7
            if abs(digits) < 7:
                decimals = max(digits, 0)
                number = f"{round(self.mean, digits):.{decimals}f} ± {round(self.sd, digits):.{decimals}f}"
            else:
                number += f" ± {self.sd:.2g}"
        return number + (f" (n={self.n})" if self.show_n else "")


@dataclass(frozen=True, repr=False)
class Table:
    """Rows of values: text, numbers, truth values, `Measured`, or None for an empty cell.

    Attributes
    ----------
    rows
        Dicts of named values; each name has a column.
    notes
        Text below the table, such as the protocols of scores; in LaTeX, part of the caption.
    """

    rows: list[dict]
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """All names, in order of appearance."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def transposed(self, corner: str) -> Table:
        """Columns as rows: the first column becomes the header; the names of the others stand under `corner`."""
        first, *others = self.columns
        return Table([{corner: name} | {text(row[first]): row.get(name) for row in self.rows} for name in others], self.notes)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.columns)
        body = "".join(f"<tr>{''.join(_html(row.get(name)) for name in self.columns)}</tr>" for row in self.rows)
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" + (f"<ul>{notes}</ul>" if notes else "")

    def __repr__(self) -> str:
        """Aligned text, for terminals and logs."""
        cells = [self.columns, *([text(row.get(name)) for name in self.columns] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        numeric = [all(_is_number(row[name]) for row in self.rows if row.get(name) is not None) for name in self.columns]
        lines = []
        for row in cells:
            aligned = (cell.rjust(n) if right else cell.ljust(n) for cell, n, right in zip(row, widths, numeric, strict=True))
            lines.append("  ".join(aligned).rstrip())
        return "\n".join([*lines, *self.notes])

    def csv(self, path: str | PathLike) -> Path:
        """Write all digits of all numbers. A column with deviations becomes three: `name`, `name sd`, `name n`."""
        spread = {name for row in self.rows for name, value in row.items() if isinstance(value, Measured) and value.sd is not None}
        names = [full for name in self.columns for full in ((name, f"{name} sd", f"{name} n") if name in spread else (name,))]
        stream = io.StringIO()
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        for row in self.rows:
            line: dict = {}
            for name, value in row.items():
                if isinstance(value, Measured):
                    line[name] = value.mean
                    if name in spread:
                        line |= {f"{name} sd": value.sd, f"{name} n": value.n}
                else:
                    line[name] = value
            writer.writerow(line)
        return _write(path, stream.getvalue())

    def latex(self, path: str | PathLike, caption: str = "", label: str = "") -> Path:
        """Write a `table` environment for LaTeX, which needs `\\usepackage{booktabs}`.

        Parameters
        ----------
        caption
            Plain text; it is escaped, and the notes follow.
        label
            For `\\ref`.
        """
        words = [part.rstrip(".") + "." for part in (caption, *self.notes) if part]
        numeric = [all(_is_number(row[name]) for row in self.rows if row.get(name) is not None) for name in self.columns]
        align = "".join("r" if is_numeric else "l" for is_numeric in numeric)
        lines = [r"\begin{table}", r"  \centering"]
        lines += [rf"  \caption{{{escaped(' '.join(words))}}}"] if words else []
        lines += [rf"  \label{{{label}}}"] if label else []
        lines += [
            rf"  \begin{{tabular}}{{{align}}}",
            r"    \toprule",
            f"    {' & '.join(map(escaped, self.columns))} \\\\",
            r"    \midrule",
        ]
        lines += [f"    {' & '.join(_latex(row.get(name)) for name in self.columns)} \\\\" for row in self.rows]
        lines += [r"    \bottomrule", r"  \end{tabular}", r"\end{table}"]
        return _write(path, "\n".join(lines) + "\n")


def table(rows: list[dict], save: str | PathLike | None = None) -> Table | None:
    """Rows of named values as a table, also written to the CSV file `save`; None without rows."""
    if not rows:
        return None
    result = Table(rows)
    if save:
        result.csv(save)
    return result


def score_table(records: list[dict]) -> Table:
    """Scores as a table with a column for each record; the tooltip of a number is its protocol."""
    about = [f"{record['protocol']}; {_against(record)}" for record in records]
    heads = [f"step {record['step']:,}" if "step" in record else record["samples"] for record in records]
    rows = []
    for name in dict.fromkeys(name for record in records for name in record["scores"]):
        row: dict = {"score": name}
        for k, record in enumerate(records):
            head = heads[k] if heads.index(heads[k]) == k else f"{heads[k]} ({k + 1})"
            value = record["scores"].get(name)
            row[head] = None if value is None else Measured(value, record.get("errors", {}).get(name), about=about[k])
        rows.append(row)
    missing = [f"Left out: {name} ({reason})" for record in records for name, reason in record.get("left_out", {}).items()]
    return Table(rows, tuple(dict.fromkeys([*about, *missing])))


def measured(scores: Sequence[CheckpointScore], n: int | None = None) -> dict[str, Measured]:
    """Scores of several runs as cells of a table, by name: mean and deviation; also their number, unless it is `n`."""
    values: dict[str, list[float]] = {}
    for score in scores:
        values.setdefault(score.name, []).append(score.value)
    return {name: Measured.of(of_name, scores[0].protocol, n is not None and len(of_name) != n) for name, of_name in values.items()}


def _against(record: dict) -> str:
    real = record.get("reference")
    return f"{real['n']:,} real images of {real['data']} at {real['size']}x{real['size']}" if real else "no real images"


def text(value) -> str:
    """A cell as text; numbers have three digits."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.3g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _html(value) -> str:
    title = f' title="{html.escape(value.about, quote=True)}"' if isinstance(value, Measured) and value.about else ""
    return f'<td{title} style="text-align: {"right" if _is_number(value) else "left"}">{html.escape(text(value))}</td>'


def _latex(value) -> str:
    if not _is_number(value):
        return escaped(text(value))
    number, _, n = text(value).partition(" (")
    number = number.replace("±", r"\pm").replace(",", "{,}").replace("inf", r"\infty").replace("nan", r"\mathrm{nan}")
    mantissa, e, exponent = number.partition("e")  # 1e-05
    number = rf"{mantissa} \cdot 10^{{{int(exponent)}}}" if e and " " not in number else number
    return f"${number}$" + (f" ({n}" if n else "")


def _is_number(value) -> bool:
    return isinstance(value, Measured) or is_number(value)


def escaped(plain: str) -> str:
    """Text that LaTeX shows literally."""
    return "".join(LATEX.get(character, character) for character in plain)


def _write(path: str | PathLike, content: str) -> Path:
    path = Path(path)
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, content)
    return path
