"""Bundles ES modules into one, and style sheets, as anywidget and a page without a server need; without a tool outside Python.

Modules are joined in import order, without their import and export lines. They share one scope: equal top-level names, renamed imports and
import cycles are refused.
"""

from __future__ import annotations

import re
from pathlib import Path

SOURCES = Path(__file__).parent / "js"

_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([\w.]+)";\n', re.MULTILINE)
_DECLARATION = re.compile(r"^(export )?(?:async function|function|class|const|let) (\S+?)(?=[\s(=;])", re.MULTILINE)


def bundle(entry: str, folder: Path = SOURCES) -> str:
    """The module `entry` with all its imports as one module, which keeps the default export of `entry`.

    Raises
    ------
    ValueError
        If a module cannot be joined; the message names it.
    """
    joined: dict[str, str] = {}  # module -> its text
    exported: dict[str, set[str]] = {}
    owners: dict[str, str] = {}  # name -> module

    def add(module: str, importers: tuple[str, ...]) -> None:
        if module in importers:
            raise ValueError(f"modules import each other: {' -> '.join((*importers, module))}")
        if module in joined:
            return
        source = (folder / module).read_text(encoding="utf-8")
        for names, other in _IMPORT.findall(source):
            add(other, (*importers, module))
            missing = {name.strip() for name in names.split(",") if name.strip()} - exported[other]
            if missing:
                raise ValueError(f"{module} imports {', '.join(sorted(missing))}, which {other} does not export")
        declarations = _DECLARATION.findall(source)
        for _, name in declarations:
            if not re.fullmatch(r"\w+", name):
                raise ValueError(f"{module} declares {name!r} at its top level; declare one name at a time")
            if name in owners:
                raise ValueError(f"{name} is declared in {owners[name]} and in {module}; one of them needs another name")
            owners[name] = module
        exported[module] = {name for export, name in declarations if export}
        text = re.sub(r"^export (?!default)", "", _IMPORT.sub("", source), flags=re.MULTILINE)
        if re.search(r"^import\b" if module == entry else r"^(import|export)\b", text, re.MULTILINE):
            raise ValueError(
                f'{module} has an import or export that is neither `import {{ a, b }} from "./module.js";` nor `export function`'
            )
        joined[module] = text.strip("\n")

    add(entry, ())
    return "\n\n".join(joined.values()) + "\n"


def styles(*names: str) -> str:
    """Style sheets of this folder as one."""
    return "".join((SOURCES.parent / name).read_text(encoding="utf-8") for name in names)


def document(title: str, css: str, body: str) -> str:
    """An HTML page of its own. Title, style and body are markup already."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
{body}
</body>
</html>
"""
