"""The layers that both networks are built from: spectral normalization, convolutions that resample, batch norm over groups.

Shapes: B images, C channels, H x W positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear, nn.Embedding)

# --------------------------------------------------------------------------------------- spectral normalization


class SpectralNorm(nn.Module):
    """Parametrisation W -> W / sigma(W), sigma the largest singular value (Miyato et al., 2018).

    `u` and `v` estimate the singular vectors of W as a (out, rest) matrix. A forward pass never changes them: training calls
    `power_iteration` once per step, so that sigma is the same in all passes of a step, however the batch is split.
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor):
        super().__init__()
        # A fresh network needs a few iterations; in double precision, so that they do not depend on the number of threads.
        matrix = weight.detach().flatten(1).double()
        self.register_buffer("u", F.normalize(torch.randn(matrix.shape[0], dtype=matrix.dtype), dim=0))
        self.register_buffer("v", torch.empty(matrix.shape[1], dtype=matrix.dtype))
        for _ in range(0 if matrix.is_meta else 15):  # on the device "meta" a network has shapes only
            self.iterate(matrix)
        self.to(weight.dtype)

    @torch.no_grad()
    def iterate(self, weight: Tensor) -> None:
        """One step of power iteration on (u, v)."""
        matrix = _matrix(weight)
        v = F.normalize(matrix.T @ self.u, dim=0)
        self.v.copy_(v.view(*weight.shape[2:], weight.shape[1]).movedim(-1, 0).flatten())
        self.u.copy_(F.normalize(matrix @ v, dim=0))

    @torch.no_grad()
    def converge(self, weight: Tensor) -> None:
        """Set (u, v) to the singular vectors of the largest singular value, to the precision of `weight`.

        By an eigendecomposition in double precision: power iteration needs thousands of steps where two singular values are close.
        """
        matrix = _matrix(weight).double()
        if not matrix.isfinite().all():  # of a training that diverged, which the caller reports
            return
        if len(matrix) <= matrix.shape[1]:
            u = torch.linalg.eigh(matrix @ matrix.T).eigenvectors[:, -1]
        else:
            u = F.normalize(matrix @ torch.linalg.eigh(matrix.T @ matrix).eigenvectors[:, -1], dim=0)
        self.u.copy_(u)
        self.iterate(weight)  # v, in its memory layout

    def sigma(self, weight: Tensor) -> Tensor:
        """u^T W v, the estimate of the largest singular value; differentiable in W, u and v held fixed."""
        return torch.dot(self.u, _matrix(weight) @ _matrix(self.v.view(1, *weight.shape[1:])).flatten())

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):  # sigma to full precision
            return weight / self.sigma(weight)


def _matrix(weight: Tensor) -> Tensor:
    """A weight (out, in, ...) as (out, ... * in): the singular values of (out, in * ...) without copying a channels_last weight."""
    return weight.movedim(1, -1).flatten(1)


def power_iteration(net: nn.Module, count: int = 1) -> None:
    """Advance u and v of every spectrally normalised layer of `net` by `count` power iterations."""
    for norm, weight in _spectral_norms(net):
        for _ in range(count):
            norm.iterate(weight)


def converge_sigma(net: nn.Module) -> None:
    """Make sigma of every spectrally normalised layer of `net` its largest singular value; see `SpectralNorm.converge`."""
    for norm, weight in _spectral_norms(net):
        norm.converge(weight)


def _spectral_norms(net: nn.Module) -> Iterator[tuple[SpectralNorm, Tensor]]:
    for module in net.modules():
        if isinstance(module, parametrize.ParametrizationList) and isinstance(module[0], SpectralNorm):
            yield module[0], module.original


def spectral_norm(layer: Layer) -> Layer:
    """Apply spectral normalization to a layer."""
    # unsafe: without a forward pass that checks shapes, which the device "meta" does not have.
    parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight), unsafe=True)
    return layer


def initialise(layer: Layer, sn: bool) -> Layer:
    """Initialise a layer as the released code does (Xavier-uniform, zero bias), with spectral normalization if `sn`."""
    nn.init.xavier_uniform_(layer.weight)
    bias = getattr(layer, "bias", None)
    if bias is not None:
        nn.init.zeros_(bias)
    return spectral_norm(layer) if sn else layer


@torch.no_grad()
def make_orthogonal(net: nn.Module) -> None:
    """Draw the weights of every layer of `net` anew, orthogonal as (out, rest) matrices (Saxe et al., 2014)."""
    for module in net.modules():
        if isinstance(module, parametrize.ParametrizationList):
            nn.init.orthogonal_(module.original)
            module[0] = SpectralNorm(module.original)  # its u and v were those of the old weight
        elif isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding) and not parametrize.is_parametrized(module, "weight"):
            nn.init.orthogonal_(module.weight)


def conv(inputs: int, outputs: int, kernel: int, sn: bool, bias: bool = True, kind: type[nn.Conv2d] = nn.Conv2d) -> nn.Conv2d:
    """A convolution that keeps the size of the map (`kind` may resample), initialised."""
    return initialise(kind(inputs, outputs, kernel, padding=kernel // 2, bias=bias), sn)


def zero_gradient_of_bias(layer: nn.Conv2d) -> None:
    """Zero the gradient of a bias that batch norm cancels: it is rounding noise, which Adam would scale up to full steps."""
    layer.bias.register_hook(torch.zeros_like)


# ------------------------------------------------------------------------------- convolutions that change resolution


def upsample(x: Tensor) -> Tensor:
    """Nearest x2: (B, C, H, W) -> (B, C, 2H, 2W)."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def channels_last(x: Tensor) -> Tensor:
    """x in the memory layout in which convolutions and attention are fastest; later layers keep it."""
    return x.contiguous(memory_format=torch.channels_last)


class UpConv(nn.Conv2d):
    """Nearest x2, then a 3x3 convolution: (B, C, H, W) -> (B, C', 2H, 2W).

    Computed as one transposed convolution with stride 2, whose 4x4 kernel is the 3x3 one summed over a 2x2 box: 4/9 of the products.
    """

    def forward(self, x: Tensor) -> Tensor:
        if len(x) * x.shape[2] * x.shape[3] < 256:  # computing the larger kernel would cost more than it saves
            return super().forward(upsample(x))
        kernel = _box_filter(channels_last(self.weight.transpose(0, 1)), mirrored=True)
        return F.conv_transpose2d(x, kernel, self.bias, stride=2, padding=1)


class DownConv(nn.Conv2d):
    """A 3x3 convolution, then 2x2 average pooling: (B, C, H, W) -> (B, C', H/2, W/2).

    Computed as one convolution with stride 2, whose 4x4 kernel is the 3x3 one averaged over a 2x2 box: 4/9 of the products.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, _box_filter(self.weight, scale=0.25), self.bias, stride=2, padding=1)


def _box_filter(weight: Tensor, scale: float = 1.0, mirrored: bool = False) -> Tensor:
    """Kernels (C', C, 3, 3) convolved with a 2x2 box: (C', C, 4, 4), times `scale`; `mirrored`: flipped in both directions."""
    side = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]], device=weight.device, dtype=weight.dtype)
    side = side.flip(0) if mirrored else side
    with torch.autocast(weight.device.type, enabled=False):  # sums to full precision
        kernel = (torch.kron(side, side) * scale) @ weight.movedim(1, -1).flatten(1, 2)  # (C', 16, C)
    return kernel.unflatten(1, (4, 4)).movedim(-1, 1)


# -------------------------------------------------------------------------------------------------- batch norm


class _AllReduceSum(torch.autograd.Function):
    """Sum over the processes of a group; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        x = x.clone()
        dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx, grad):
        grad = grad.contiguous().clone()
        dist.all_reduce(grad, group=ctx.group)
        return grad, None


class BatchNorm(nn.Module):
    """Batch norm whose statistics span groups of images, and processes.

    In training mode each group of `group_size` consecutive images is normalised by its own mean and biased variance; the group is the whole
    batch if `group_size` is None or does not divide it. The running statistics are updated group by group, in the order of the global batch.
    So results depend neither on the number of processes nor on gradient accumulation, as long as a group fits into a pass.
    torch's SyncBatchNorm has no groups and does not run on a CPU.

    Parameters
    ----------
    channels
        C of the (B, C, H, W) input.
    num_classes
        Each class has its own gain and bias (conditional batch norm); 0: one for all.
    momentum
        Weight of a new group in the running statistics (unbiased variance, as in torch).
    eps
        Added to the variance.
    sn
        Spectrally normalise the (classes, C) gains, less 1, and the biases; they start at random, Xavier-uniform.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, channels: int, num_classes: int = 0, group_size: int | None = None, momentum: float = 0.1, eps: float = 1e-5, sn: bool = False
    ):
        super().__init__()
        self.num_classes, self.group_size, self.momentum, self.eps = num_classes, group_size, momentum, eps
        self.gain = nn.Parameter(torch.ones(max(1, num_classes), channels))
        self.bias = nn.Parameter(torch.zeros(max(1, num_classes), channels))
        self.sn = sn and num_classes > 0
        for name in ("gain", "bias") if self.sn else ():
            nn.init.xavier_uniform_(getattr(self, name))
            parametrize.register_parametrization(self, name, SpectralNorm(getattr(self, name)), unsafe=True)
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        # Set by `span_processes`: the number of processes, how many of them a group of images spans, and their process group.
        self.world, self.span = 1, 1
        self.span_group: dist.ProcessGroup | None = None

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        if not self.training:
            x = F.batch_norm(x, self.running_mean, self.running_var, eps=self.eps)
        else:
            size = len(x) if self.span > 1 or not self.group_size or len(x) % self.group_size else self.group_size
            normalise = self._normalise_spanning if self.span > 1 else self._normalise_local
            parts, statistics = zip(*(normalise(part) for part in x.split(size)), strict=True)
            self._update_running(torch.stack(statistics))
            x = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self.num_classes:
            gain, bias = F.embedding(y, self.gain), F.embedding(y, self.bias)  # type: ignore[arg-type]  # y is checked by the network; (B, C)
            gain = gain + 1 if self.sn else gain
        else:
            gain, bias = self.gain, self.bias  # (1, C)
        return torch.addcmul(bias[:, :, None, None].to(x.dtype), x, gain[:, :, None, None].to(x.dtype))

    def _normalise_local(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, var = torch.empty_like(self.running_mean), torch.empty_like(self.running_var)
        x = F.batch_norm(x, mean.zero_(), var.zero_(), training=True, momentum=1.0, eps=self.eps)  # momentum 1: fills mean and var
        return x, torch.stack([mean, var])

    def _normalise_spanning(self, x: Tensor) -> tuple[Tensor, Tensor]:
        dtype = x.dtype
        x = x.to(self.running_mean.dtype)
        mean = _AllReduceSum.apply(x.mean((0, 2, 3)), self.span_group) / self.span
        x = x - mean[:, None, None]
        var = _AllReduceSum.apply(x.square().mean((0, 2, 3)), self.span_group) / self.span
        n = self.span * x.numel() / x.shape[1]
        x = x * torch.rsqrt(var + self.eps)[:, None, None]
        return x.to(dtype), torch.stack([mean, var * n / (n - 1)]).detach()

    @torch.no_grad()
    def _update_running(self, statistics: Tensor) -> None:
        """Update the running statistics from those of all processes' groups, in global order; `statistics`: (groups, 2, C) of this one."""
        if self.world > self.span:
            gathered = [torch.empty_like(statistics) for _ in range(self.world)]
            dist.all_gather(gathered, statistics)
            statistics = torch.cat(gathered[:: self.span])
        for mean, var in statistics:
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var, self.momentum)


def span_processes(generator: nn.Module, share: int) -> None:
    """Set up the batch norms of `generator` for all processes; `share`: images per process and forward pass."""
    world = dist.get_world_size()
    norms = [module for module in generator.modules() if isinstance(module, BatchNorm)]
    span = max(1, (norms[0].group_size or world * share) // share)
    # Not the process group that averages gradients: the collectives of both may interleave.
    span_group = dist.new_subgroups(span)[0] if span > 1 else None
    for norm in norms:
        norm.world, norm.span, norm.span_group = world, span, span_group
