"""Streamed mean and covariance of features, in float64."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..messages import ParameterError, WorkbenchError
from .checks import float64


class Moments:
    """Number, mean and covariance of rows that arrive in batches of any size.

    Each batch is centred before it is squared, and batches are merged with the formula of Chan, Golub & LeVeque (1983): raw sums of
    squares lose digits if the mean is large.

    Attributes
    ----------
    n
        Number of rows.
    mean, scatter
        (d,) and (d, d) float64: the mean of the rows x, and the sum over them of (x - mean)(x - mean)^T; empty before the first row.
    """

    def __init__(self):
        self.n = 0
        self.mean = torch.zeros(0, dtype=torch.float64)
        self.scatter = torch.zeros(0, 0, dtype=torch.float64)

    @classmethod
    def of(cls, x: Tensor | np.ndarray) -> Moments:
        """The moments of x (B, d)."""
        return cls().update(x)

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance, (d, d) float64. Raises WorkbenchError with fewer than 2 rows."""
        if self.n < 2:
            raise WorkbenchError(f"a covariance needs at least 2 samples; n={self.n}")
        return self.scatter / (self.n - 1)

    def update(self, x: Tensor | np.ndarray) -> Moments:
        """Add the rows of x (B, d), of any float type, B >= 0; returns itself.

        Raises
        ------
        ParameterError
            If x is not (B, d), is of another width than the rows before, or holds NaN, infinity or values that overflow. Nothing is added
            then.
        """
        x = torch.as_tensor(x)
        if x.ndim != 2:
            raise ParameterError(f"x has shape {tuple(x.shape)}; features must be (B, d)")
        if len(x):
            if bad := int((~x.isfinite()).any(1).sum()):
                raise ParameterError(f"x holds NaN or infinity in {bad} of {len(x)} rows; features must be finite")
            x = float64(x, "x")
            mean = x.mean(0)
            x = x - mean
            self._join(len(x), mean, x.T @ x)
        return self

    def merge(self, other: Moments) -> Moments:
        """Add the rows of `other`; returns itself. Raises ParameterError if the widths differ."""
        if other.n:
            self._join(other.n, other.mean, other.scatter)
        return self

    def _join(self, n: int, mean: Tensor, scatter: Tensor) -> None:
        if not self.n:  # width and device are those of the first rows
            self.mean, self.scatter = torch.zeros_like(mean), torch.zeros_like(scatter)
        if len(mean) != len(self.mean):
            raise ParameterError(f"features of width {len(mean)} do not go with the {self.n} of width {len(self.mean)} before them")
        total = self.n + n
        delta = mean.to(self.mean.device) - self.mean
        self.mean = self.mean + delta * (n / total)
        self.scatter = (self.scatter + scatter.to(self.scatter.device)).addr_(delta, delta, alpha=self.n * n / total)
        self.n = total

    def state(self) -> dict[str, Tensor]:
        """`n` () int64, `mean` (d,) and `scatter` (d, d) float64: for a safetensors file."""
        return {"n": torch.tensor(self.n), "mean": self.mean, "scatter": self.scatter}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> Moments:
        """The moments whose `state()` this is."""
        moments = cls()
        moments.n, moments.mean, moments.scatter = int(state["n"]), state["mean"], state["scatter"]
        return moments
