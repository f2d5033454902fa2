"""The Inception score (IS), in float64; with any other classifier it is called class score."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..messages import ParameterError, WorkbenchError, counted
from .checks import float64, matrix


class StreamedInceptionScore:
    """The Inception score (Salimans et al., 2016), exp of the mean of KL(p(y|x) || p(y)), of logits in batches, which are not kept.

    Parameters
    ----------
    n
        Number of samples, which arrive in the order of their index.
    splits
        Number of parts; part i holds the positions from i n // splits to before (i + 1) n // splits.
    shuffle_seed
        None: samples fill the splits in the order of arrival, which must mix the classes, because the score of few classes is low.
        Otherwise in the order `numpy.random.RandomState(shuffle_seed).permutation(n)`, as in torch-fidelity (whose seed is 2020).
    """

    def __init__(self, n: int, splits: int = 10, shuffle_seed: int | None = None):
        if not 1 <= splits <= n:
            raise ParameterError(f"splits={splits} cannot be filled with n={n} samples; at least 1 and at most {n}")
        self.n, self.seen = n, 0
        self._counts = np.diff([i * n // splits for i in range(splits + 1)])
        self._split = np.repeat(np.arange(splits), self._counts)  # of each sample
        if shuffle_seed is not None:
            self._split[np.random.RandomState(shuffle_seed).permutation(n)] = self._split.copy()
        # Sums over the samples of each split of p, (splits, K), and of sum_y p log p, (splits,); K is 0 before the first sample.
        self._p = torch.zeros(splits, 0, dtype=torch.float64)
        self._negentropy = torch.zeros(splits, dtype=torch.float64)

    def update(self, logits: Tensor | np.ndarray) -> StreamedInceptionScore:
        """Add the logits (B, K) of the next samples; returns itself.

        A ParameterError if the shape does not fit, there are more than n samples, or a value is not finite; then nothing is added.
        """
        logits = float64(matrix(logits, "logits", 0), "logits")
        if not self._p.shape[1]:
            self._p, self._negentropy = logits.new_zeros(len(self._counts), logits.shape[1]), self._negentropy.to(logits.device)
        if logits.shape[1] != self._p.shape[1]:
            raise ParameterError(f"logits have {logits.shape[1]} classes; those before had {self._p.shape[1]}")
        if self.seen + len(logits) > self.n:
            raise ParameterError(f"logits are those of {counted(self.seen + len(logits), 'sample')}; n={self.n}")
        split = torch.from_numpy(self._split[self.seen : self.seen + len(logits)]).to(logits.device)
        member = (split == torch.arange(len(self._counts), device=logits.device)[:, None]).double()  # (splits, B)
        log_p = logits.log_softmax(1)
        p = log_p.exp()
        self._p += member @ p
        self._negentropy += member @ (p * log_p).sum(1)
        self.seen += len(logits)
        return self

    def whole(self) -> float:
        """The score of all n as one set, as in the official evaluation of SAGAN. Raises WorkbenchError before the last sample."""
        self._check_complete()
        return self._score(self._p.sum(0), self._negentropy.sum(), self.n)

    def splits(self) -> tuple[float, float]:
        """Mean and (population) standard deviation of the scores of the splits. Raises WorkbenchError before the last sample."""
        self._check_complete()
        scores = [self._score(*sums) for sums in zip(self._p, self._negentropy, self._counts.tolist(), strict=True)]
        return float(np.mean(scores)), float(np.std(scores))

    def _check_complete(self) -> None:
        if self.seen < self.n:
            raise WorkbenchError(f"the Inception score of n={self.n} samples was requested after {self.seen}; add the others first")

    @staticmethod
    def _score(p: Tensor, negentropy: Tensor, count: int) -> float:
        q = p / count  # the mean of KL(p || q) is that of sum_y p log p, less sum_y q log q
        return (negentropy / count - torch.special.xlogy(q, q).sum()).exp().item()


def inception_score(logits: Tensor | np.ndarray, splits: int = 10) -> tuple[float, float]:
    """Mean and standard deviation of the Inception score over `splits` parts of logits (n, K), in the order given.

    Raises
    ------
    ParameterError
        If logits are not (n, K) with n >= splits, or a value is not finite.
    """
    logits = matrix(logits, "logits")
    score = StreamedInceptionScore(len(logits), splits)
    for part in logits.split(1000):
        score.update(part)
    return score.splits()
