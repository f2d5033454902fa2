"""Descriptions of figures as JSON values, and back."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import get_args, get_origin, get_type_hints

from ..messages import WorkbenchError
from ..records import is_number
from .charts import Chart, Composition, Sheet
from .records import LARGEST


def to_plain(value):
    """A description as JSON values, without defaults."""
    if is_dataclass(value):
        pairs = ((field, getattr(value, field.name)) for field in fields(value))
        return {field.name: to_plain(entry) for field, entry in pairs if field.default is MISSING or entry != field.default}
    return [to_plain(entry) for entry in value] if isinstance(value, tuple) else value


def from_plain(value) -> Chart | Sheet | Composition:
    """The inverse of `to_plain`; a WorkbenchError names the entry that does not fit."""
    return _read(_kind_of(value), value, "figure")


def _kind_of(value) -> type:
    keys = value if isinstance(value, dict) else {}
    return Composition if "parts" in keys else Chart if "panels" in keys else Sheet


def _read(kind, value, where: str):
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        if not isinstance(value, dict) or set(value) - set(hints):
            raise WorkbenchError(f"{where} is no {kind.__name__.lower()}")
        try:
            return kind(**{name: _read(hints[name], entry, f"{where}.{name}") for name, entry in value.items()})
        except (TypeError, ValueError) as error:
            raise WorkbenchError(f"{where} is no {kind.__name__.lower()}: {error}") from None
    if get_origin(kind) is UnionType and Chart in get_args(kind):
        return _read(_kind_of(value) if _kind_of(value) in get_args(kind) else Chart, value, where)
    if get_origin(kind) is UnionType:
        kind = next(member for member in get_args(kind) if member is not type(None))
        return None if value is None else _read(kind, value, where)
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if isinstance(value, list) and kinds[-1] is Ellipsis:
            return tuple(_read(kinds[0], entry, where) for entry in value)
        if isinstance(value, list) and len(value) == len(kinds):
            return tuple(_read(member, entry, where) for member, entry in zip(kinds, value, strict=True))
    elif kind is float:
        if is_number(value) and abs(value) < LARGEST:
            return value
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise WorkbenchError(f"{where} has an entry of another type: {' '.join(repr(value).split())[:60]}")
