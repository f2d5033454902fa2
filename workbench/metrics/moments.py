"""Streamed mean and covariance of features, in float64."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..parameters import ParameterError, WorkbenchError


class Moments:
    """Number, mean and covariance of rows that arrive in batches of any size.

    Each batch is centred before it is squared and added by the formula of Chan, Golub & LeVeque (1983): raw sums of squares lose digits
    if the mean is large.

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
            If x is not (B, d), has another width than the rows before, or holds NaN or infinity. Then nothing is added.
        """
        x = torch.as_tensor(x)
        if x.ndim != 2:
            raise ParameterError(f"x has shape {tuple(x.shape)}; features must be (B, d)")
        if not len(x):
            return self
        x = x.to(torch.float64)
        mean = x.mean(0)
        if not mean.isfinite().all():
            bad = int((~x.isfinite()).any(1).sum())
            raise ParameterError(f"x holds NaN or infinity in {bad} of {len(x)} rows; features must be finite")
        if not self.n:  # the first rows decide width and device
            self.mean, self.scatter = torch.zeros_like(mean), mean.new_zeros(len(mean), len(mean))
        if len(mean) != len(self.mean):
            raise ParameterError(f"x has {len(mean)} features per row; the {self.n} rows before have {len(self.mean)}")
        n, delta, centred = self.n + len(x), mean - self.mean, x - mean
        self.mean = self.mean + delta * (len(x) / n)
        self.scatter = (self.scatter + centred.T @ centred).addr_(delta, delta, alpha=self.n * len(x) / n)
        self.n = n
        return self

    def state(self) -> dict[str, Tensor]:
        """`n` () int64, `mean` (d,) and `scatter` (d, d) float64: for a safetensors file."""
        return {"n": torch.tensor(self.n), "mean": self.mean, "scatter": self.scatter}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> Moments:
        """The inverse of `state`."""
        moments = cls()
        moments.n, moments.mean, moments.scatter = int(state["n"]), state["mean"], state["scatter"]
        return moments
