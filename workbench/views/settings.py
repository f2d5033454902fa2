"""The first thing that `train.ipynb` calls: a check of the settings of a run, and a table of them."""

from __future__ import annotations

import html
from dataclasses import dataclass, fields
from itertools import groupby

from .. import forkserver
from ..config import Config, read_config
from ..messages import blaming_variables
from ..parameters import in_words
from ..runs import require_startable
from ..runs.create import derived_name
from ..runs.resume import parent_folder


def check(config: Config) -> Settings:
    """All settings of a run that is about to start; those that differ from its preset, or from the run that it resumes, are marked.

    Raises
    ------
    ParameterError, UnreadableError
        If the name of the run is taken, `resume` does not fit, or this machine has too little memory.
    """
    require_startable(config)
    if config.num_processes == 1:
        forkserver.prepare()  # before torch is imported here: both take seconds
    with blaming_variables():
        from ..training.memory import require_feasible

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
        return f"{self.name}: {len(self.config.changes(self.base))} of {len(fields(self.config))} settings differ from {source}"

    @property
    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Section, parameter, value, the value of `base` if that differs (else empty), and meaning."""
        changes, section, rows = self.config.changes(self.base), "", []
        for f in fields(self.config):
            section = f.metadata["section"] or section
            value, default = (" ".join(in_words(f, getattr(config, f.name)).split()) for config in (self.config, self.base))
            rows.append((section, f.name, value, default if f.name in changes else "", f.metadata["meaning"]))
        return rows

    def __repr__(self) -> str:
        lines = [self.title]
        for section, rows in groupby(self.rows, lambda row: row[0]):
            lines += ["", section]
            lines += [f"{'*' if base else ' '} {name:<22} {value}{f'  (not {base})' if base else ''}" for _, name, value, base, _ in rows]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        body = []
        for section, rows in groupby(self.rows, lambda row: row[0]):
            body.append(f'<tr><th colspan="4" style="text-align: left">{html.escape(section)}</th></tr>')
            for _, *texts in rows:
                name, value, base, meaning = map(html.escape, texts)
                cells = (f"<b>{name}</b>", f"<mark>{value}</mark>", f"not {base}", meaning) if base else (name, value, base, meaning)
                body.append("<tr>" + "".join(f'<td style="text-align: left">{cell}</td>' for cell in cells) + "</tr>")
        return f"<p>{html.escape(self.title)}</p><table><tbody>{''.join(body)}</tbody></table>"
