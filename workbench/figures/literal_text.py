"""The matplotlib figure of all drawings: its text is literal, in any script and with any matplotlibrc.

Matplotlib reads `$a$` as mathematics and draws boxes for characters that its font lacks. Here nothing is mathematics, each character comes
from an installed font that has it, and a character that no font has is written as its code point.
"""

from __future__ import annotations

import functools
import logging
import unicodedata
from collections.abc import Iterator

from ..messages import WorkbenchError, say_once

try:
    import matplotlib  # noqa: F401
except ValueError as error:  # from MPLBACKEND or matplotlibrc
    raise WorkbenchError(f"matplotlib does not start ({error}): check MPLBACKEND in the environment, and matplotlibrc") from None
from matplotlib import font_manager, rc_context
from matplotlib.artist import Artist
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter, NullFormatter, ScalarFormatter

PREFERRED = (  # fonts to try first: those with many scripts, beginning with Chinese, Japanese and Korean
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei",
    "PingFang SC", "Hiragino Sans GB", "Hiragino Sans", "Microsoft YaHei", "SimHei", "Yu Gothic", "Malgun Gothic", "Apple SD Gothic Neo",
    "Droid Sans Fallback", "Arial Unicode MS", "Segoe UI Symbol", "Noto Sans Symbols2", "Symbola",
)  # fmt: skip
NUMBERS = (LogFormatter, NullFormatter, ScalarFormatter)  # formatters of ticks that show numbers
PLAIN = {"text.parse_math": False, "text.usetex": False, "axes.formatter.use_mathtext": False}


def _plain(method, draws_text: bool = False):
    """A method of a figure without mathematics; one that draws or measures text first prepares all texts."""

    @functools.wraps(method)
    def call(self, *args, **kwargs):
        with rc_context(PLAIN):
            if draws_text:
                self._prepare_texts()
            return method(self, *args, **kwargs)

    return call


class LiteralFigure(Figure):
    """A figure with literal text, see this module."""

    add_axes, add_subplot = _plain(Figure.add_axes), _plain(Figure.add_subplot)
    draw, tight_layout = _plain(Figure.draw, draws_text=True), _plain(Figure.tight_layout, draws_text=True)

    def _prepare_texts(self) -> None:
        for axis in (axis for axes in self.axes for axis in (axes.xaxis, axes.yaxis)):
            if not isinstance(axis.get_major_formatter(), NUMBERS):
                labels = [label.get_text() for label in axis.get_ticklabels()]
                if any(readable(label) != label for label in labels):  # a formatter would set the labels again when it draws
                    axis.set_ticks(axis.get_ticklocs(), [readable(label) for label in labels])
        for text in _texts(self):
            text.set_parse_math(False)
            text.set_usetex(False)
            if not text.get_text().isascii() or not text.get_text().isprintable():
                families = tuple(text.get_fontfamily())
                text.set_text(readable(text.get_text(), families))
                text.set_fontfamily(families_of(text.get_text(), families))


def _texts(artist: Artist) -> Iterator[Text]:
    """All texts in a figure or a part of it; of an axis only existing ticks, because making ticks is slow."""
    for child in artist.get_children():
        if isinstance(child, Text):
            yield child
        elif isinstance(child, Axis):
            yield from (child.label, child.offsetText)
            yield from (label for tick in (*child.majorTicks, *child.minorTicks) for label in (tick.label1, tick.label2))
        else:
            yield from _texts(child)


def families_of(text: str, families: tuple[str, ...] = ("sans-serif",)) -> list[str]:
    """These font families, and further installed ones for the characters of a text that they do not have."""
    further = (_family_with(character, families) for character in text)
    return list(dict.fromkeys([*families, *filter(None, further)]))


def readable(text: str, families: tuple[str, ...] = ("sans-serif",)) -> str:
    """A text with code points, such as `U+732B`, for characters that no installed font has; reports once which package has one."""
    if text.isascii() and text.isprintable():
        return text
    parts: list[str] = []
    unknown: list[str] = []
    for character in [*text, ""]:
        if character and _family_with(character, families) is None:
            unknown.append(character)
            continue
        if unknown:
            parts.append(" ".join(f"U+{ord(sign):04X}" for sign in unknown[:4]) + ("…" if len(unknown) > 4 else ""))
            _suggest_package(unknown[0])
            unknown = []
        parts.append(" " if unicodedata.category(character or "x") == "Cc" and character != "\n" else character)
    return "".join(parts)


def _suggest_package(character: str) -> None:
    east_asian = unicodedata.east_asian_width(character) in "WF" and unicodedata.category(character) in ("Lo", "Lm", "Po", "Ps", "Pe")
    symbol = unicodedata.category(character) in ("So", "Sk", "Sm")
    package = "fonts-noto-cjk" if east_asian else "fonts-symbola" if symbol else "fonts-noto-core"
    say_once(f"no installed font has all characters of names in figures, which show their code points; install one ({package})")


@functools.cache
def _family_with(character: str, families: tuple[str, ...]) -> str | None:
    """The font family for a character: "" if `families` have it, None if no installed font has it."""
    if unicodedata.category(character) in ("Cc", "Cf", "Zs", "Zl", "Zp") or any(_has(family, character) for family in families):
        return ""
    installed = sorted({font.name for font in fontManager.ttflist})
    candidates = [name for name in PREFERRED if name in installed] + installed
    return next((name for name in candidates if _has(name, character)), None) or next(
        (name for name in _installed_since() if _has(name, character)), None
    )


@functools.cache
def _installed_since() -> list[str]:
    """Families of fonts that were installed after matplotlib cached its list; adds them to the list."""
    count = len(fontManager.ttflist)
    for path in sorted(set(font_manager.findSystemFonts()) - {font.fname for font in fontManager.ttflist}):
        try:
            fontManager.addfont(path)
        except Exception:
            continue
    return sorted({font.name for font in fontManager.ttflist[count:]})


@functools.cache
def _font(family: str):
    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns about every family without a normal weight
    try:
        return font_manager.get_font(fontManager.findfont(FontProperties(family=family), fallback_to_default=family == "sans-serif"))
    except (ValueError, OSError, RuntimeError):  # not installed, or deleted
        return None
    finally:
        log.setLevel(level)


def _has(family: str, character: str) -> bool:
    font = _font(family)
    return font is not None and font.get_char_index(ord(character)) != 0
