import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from workbench.messages import ParameterError, WorkbenchError
from workbench.metrics.moments import Moments


def features(n, d=7, mean=100.0, seed=0):
    return mean + torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) @ torch.diag(torch.logspace(0, -2, d))


def error(covariance, x):
    """Against NumPy's two-pass covariance, relative to its largest entry."""
    reference = np.cov(x.double().numpy(), rowvar=False)
    return np.abs(np.asarray(covariance) - reference).max() / np.abs(reference).max()


def test_moments_are_those_of_numpy():
    x = features(1000)
    moments = Moments.of(x)
    assert moments.n == 1000 and moments.mean.dtype == moments.covariance.dtype == torch.float64
    assert np.abs(moments.mean.numpy() - x.double().numpy().mean(0)).max() < 1e-12
    assert error(moments.covariance, x) < 1e-13
    assert torch.equal(moments.scatter / 999, moments.covariance)


@pytest.mark.parametrize("size", [1, 2, 64, 999, 1000])
def test_any_batch_size_gives_the_same(size):
    x = features(1000)
    moments = Moments()
    for part in x.split(size):
        assert moments.update(part) is moments
    assert moments.n == 1000 and error(moments.covariance, x) < 1e-13


def test_merging_in_any_order_gives_the_same():
    x = features(1000)
    parts = [Moments.of(part) for part in x.split([1, 200, 0, 450, 349])]
    for order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 3, 0, 4, 1]):
        merged = Moments()
        for i in order:
            assert merged.merge(parts[i]) is merged
        assert merged.n == 1000 and error(merged.covariance, x) < 1e-13
    tree = Moments().merge(parts[3]).merge(Moments().merge(parts[0]).merge(parts[4])).merge(parts[1])
    assert error(tree.covariance, x) < 1e-13
    assert [part.n for part in parts] == [1, 200, 0, 450, 349] and error(parts[1].covariance, x[1:201]) < 1e-13  # as they were
    assert error(parts[1].merge(parts[1]).covariance, x[1:201].repeat(2, 1)) < 1e-13


def test_the_tolerance_catches_usual_mistakes():
    """Raw sums lose the digits that the mean takes, and the biased covariance is 0.1 % off at 1000 samples."""
    x = features(1000)
    n = len(x)

    def raw(dtype):
        sums, products = x.to(dtype).sum(0).double(), (x.to(dtype).T @ x.to(dtype)).double()
        return (products - torch.outer(sums, sums) / n) / (n - 1)

    assert error(raw(torch.float32), x) > 1e-3
    assert error(raw(torch.float64), x) > 1e-12
    assert error(Moments.of(x).scatter / n, x) > 5e-4
    unshifted = Moments.of(x[:500]).scatter + Moments.of(x[500:] + 1).scatter  # without Chan's term
    assert error(unshifted / (n - 1), torch.cat([x[:500], x[500:] + 1])) > 1e-2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_type_is_taken_for_what_it_holds(dtype):
    x = features(100, mean=1.0).to(dtype)
    assert error(Moments.of(x).covariance, x) < 1e-13


def test_numpy_arrays_and_no_rows():
    x = features(50)
    assert torch.equal(Moments.of(x.numpy()).scatter, Moments.of(x).scatter)
    moments = Moments().update(x[:0]).update(x).update(x[:0]).merge(Moments())
    assert moments.n == 50 and torch.equal(moments.scatter, Moments.of(x).scatter)
    assert Moments.of(x[:1]).n == 1 and Moments.of(x[:1]).scatter.abs().max() == 0


def test_state_goes_through_a_file(tmp_path):
    x = features(60)
    moments = Moments.of(x[:40])
    save_file(moments.state(), tmp_path / "moments.safetensors")
    again = Moments.from_state(load_file(tmp_path / "moments.safetensors"))
    assert again.n == 40 and torch.equal(again.mean, moments.mean) and torch.equal(again.covariance, moments.covariance)
    state = {name: tensor.clone() for name, tensor in again.state().items()}
    taken = again.state()
    again.update(x[40:])
    assert error(again.covariance, x) < 1e-13
    assert all(torch.equal(taken[name], state[name]) for name in state)  # a state taken earlier stays what it was


def test_what_cannot_be_right_is_refused_and_changes_nothing():
    x = features(20)
    moments = Moments.of(x)
    before = moments.scatter.clone()
    nan, infinite = x.clone(), x.clone()
    nan[3, 2] = nan[5, 0] = torch.nan
    infinite[0, 0] = torch.inf
    for wrong, message in [
        (x[0], r"x has shape \(7,\); features must be \(B, d\)"),
        (x[None], r"x has shape \(1, 20, 7\)"),
        (x[:, :5], "width 5 do not go with the 20 of width 7"),
        (nan, "NaN or infinity in 2 of 20 rows"),
        (infinite, "NaN or infinity in 1 of 20 rows"),
        (x.double() * 1e200, r"x holds [\d.]+e\+202; beyond 1e\+50 scores overflow in float64: scale the features down"),
        (x.double() * 1e306, r"x holds [\d.]+e\+308; beyond"),
    ]:
        with pytest.raises(ParameterError, match=message):
            moments.update(wrong)
    with pytest.raises(ParameterError, match="width 5"):
        moments.merge(Moments.of(x[:, :5]))
    assert moments.n == 20 and torch.equal(moments.scatter, before)


@pytest.mark.parametrize("n", [0, 1])
def test_no_covariance_of_fewer_than_two(n):
    with pytest.raises(WorkbenchError, match=f"at least 2 samples; n={n}"):
        _ = Moments.of(features(n)).covariance
