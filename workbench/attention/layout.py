"""Where the queries and keys of an attention layer are."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..messages import ParameterError


@dataclass(frozen=True)
class Layout:
    """Where the queries and keys of a layer are: first tokens, then positions of a grid in row-major order.

    Attributes
    ----------
    grid, key_grid
        Rows and columns of the positions of queries and of keys; a key covers a cell of as many positions as fit.
    tokens
        Names of the tokens that come first, such as ("class", "register 1"); no positions, but queries and keys.
    """

    grid: tuple[int, int]
    key_grid: tuple[int, int]
    tokens: tuple[str, ...] = ()

    @classmethod
    def square(cls, queries: int, keys: int) -> Layout:
        """Square maps without tokens.

        Raises
        ------
        ParameterError
            If they are not square.
        """
        for count, kind in ((queries, "queries"), (keys, "keys")):
            if math.isqrt(count) ** 2 != count or not count:
                raise ParameterError(f"{count} {kind} are not a square map; give maps over side^2 of them, or their layout")
        return cls((math.isqrt(queries),) * 2, (math.isqrt(keys),) * 2)

    @property
    def factor(self) -> tuple[int, int]:
        """Rows and columns of positions that a key covers."""
        return self.grid[0] // self.key_grid[0], self.grid[1] // self.key_grid[1]

    @property
    def queries(self) -> int:
        """N: tokens and positions."""
        return len(self.tokens) + math.prod(self.grid)

    @property
    def keys(self) -> int:
        """M: tokens and cells."""
        return len(self.tokens) + math.prod(self.key_grid)

    def place(self, query: int) -> tuple[int, int] | None:
        """Row and column of a query; None for a token. A ParameterError if there is no such query."""
        if not 0 <= query < self.queries:
            what = f"a position of a {self.grid[0]}x{self.grid[1]} map" + (
                f" with {len(self.tokens)} tokens before it" if self.tokens else ""
            )
            raise ParameterError(f"query={query} is not {what}; give one from 0 to {self.queries - 1}, row by row")
        return None if query < len(self.tokens) else divmod(query - len(self.tokens), self.grid[1])

    def key_of(self, query: int) -> int:
        """The key at the place of a query, or the token itself."""
        place = self.place(query)
        if place is None:
            return query
        (row, column), (down, across) = place, self.factor
        return len(self.tokens) + row // down * self.key_grid[1] + column // across


def guess_layout(queries: int, keys: int, shape: tuple[int, int] | None = None, tokens: tuple[str, ...] | None = None) -> Layout | None:
    """The layout of a layer of a network whose image has `shape` (height, width; None: square): a grid of the same proportions behind the
    `tokens`, or, where they are not known, those that fit. None if nothing fits, or the keys are no positions (as in cross-attention)."""
    height, width = shape or (1, 1)
    for names in TOKENS if tokens is None else (tokens,):
        grid, key_grid = _grid(queries - len(names), height, width), _grid(keys - len(names), height, width)
        if grid and key_grid and not (grid[0] % key_grid[0] or grid[1] % key_grid[1]):
            return Layout(grid, key_grid, names)
    return None


def registers(count: int) -> tuple[str, ...]:
    """Names of register tokens (Darcet et al., 2024)."""
    return tuple(f"register {k}" for k in range(1, count + 1))


TOKENS = ((), ("class",), ("class", *registers(4)), ("class", "distillation"))  # of vision transformers


def _grid(positions: int, height: int, width: int) -> tuple[int, int] | None:
    rows = round(math.sqrt(max(0, positions) * height / width))
    return (rows, positions // rows) if rows and positions % rows == 0 and rows * width == positions // rows * height else None
