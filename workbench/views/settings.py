"""What a training is going to be: the table of `train.ipynb`, and what is refused before its data is opened."""

from __future__ import annotations

import html
from dataclasses import dataclass, fields

from ..config import Config, read_config
from ..parameters import in_words
from ..runs import require_startable
from ..runs.create import derived_name
from ..runs.resume import parent_folder
from ..training.estimate import require_feasible


def check(config: Config) -> Settings:
    """All settings of a run that is about to start, those that differ from its preset, or from the run that it goes on from, marked.

    Raises
    ------
    ParameterError, UnreadableError
        If the run's name is taken, the run that `resume` names cannot be gone on with like this, or this machine has too little memory.
    """
    require_startable(config)
    require_feasible(config)
    base = read_config(parent_folder(config)) if config.resume else Config.preset(config.preset)
    return Settings(config, base, config.run or derived_name(config))


@dataclass(frozen=True)
class Settings:
    """Settings as a table, under the headings of `Config`."""

    config: Config
    base: Config
    name: str

    @property
    def title(self) -> str:
        source = f"run {self.config.resume}" if self.config.resume else f"preset {self.config.preset}"
        count = len(self.config.changes(self.base))
        return f"{self.name}: {count} of {len(fields(self.config))} settings differ from {source}"

    @property
    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Section, parameter, value, the value it replaces (empty: none), and meaning."""
        changes, section, rows = self.config.changes(self.base), "", []
        for field in fields(self.config):
            section = field.metadata["section"] or section
            value, usual = (" ".join(in_words(field, getattr(config, field.name)).split()) for config in (self.config, self.base))
            rows.append((section, field.name, value, usual if field.name in changes else "", field.metadata["meaning"]))
        return rows

    def __repr__(self) -> str:
        lines, heading = [self.title], ""
        for section, name, value, usual, _ in self.rows:
            if section != heading:
                lines += ["", section]
                heading = section
            lines.append(f"{'*' if usual else ' '} {name:<22} {value}{f'  (not {usual})' if usual else ''}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        body, heading = [], ""
        for section, *cells in self.rows:
            if section != heading:
                body.append(f'<tr><th colspan="4" style="text-align: left">{html.escape(section)}</th></tr>')
                heading = section
            name, value, usual, meaning = map(html.escape, cells)
            if usual:
                name, value, usual = f"<b>{name}</b>", f"<mark>{value}</mark>", f"not {usual}"
            body.append("<tr>" + "".join(f'<td style="text-align: left">{cell}</td>' for cell in (name, value, usual, meaning)) + "</tr>")
        return f"<p>{html.escape(self.title)}</p><table><tbody>{''.join(body)}</tbody></table>"
