"""The networks of SAGAN: self-attention, spectral normalization, conditional batch norm, generator, discriminator.

Follows the released TensorFlow code (Zhang et al., 2019); where that differs from the paper, both are here and named.
Shapes: B images, C channels, H x W positions (N = H * W), S the image size.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .config import Config
from .parameters import ParameterError

# --------------------------------------------------------------------------------------- spectral normalization


class SpectralNorm(nn.Module):
    """Parametrisation W -> W / sigma(W), sigma the largest singular value (Miyato et al., 2018).

    `u` and `v` estimate the singular vectors of W as a (out, rest) matrix. A forward pass never changes them: the trainer calls
    `power_iteration` once per step, so that sigma is one and the same in all passes of a step, however the batch is cut.
    """

    def __init__(self, weight: Tensor):
        super().__init__()
        # A fresh network is usable at once: some iterations, in double precision so that the number of threads does not show.
        matrix = weight.detach().flatten(1).double()
        self.register_buffer("u", F.normalize(torch.randn(matrix.shape[0], dtype=matrix.dtype), dim=0))
        self.register_buffer("v", torch.empty(matrix.shape[1], dtype=matrix.dtype))
        for _ in range(15):
            self.iterate(matrix)
        self.to(weight.dtype)

    @torch.no_grad()
    def iterate(self, weight: Tensor) -> None:
        """One step of power iteration on (u, v)."""
        matrix = _matrix(weight)
        v = F.normalize(matrix.T @ self.u, dim=0)
        self.v.copy_(v.view(*weight.shape[2:], weight.shape[1]).movedim(-1, 0).flatten())
        self.u.copy_(F.normalize(matrix @ v, dim=0))

    def sigma(self, weight: Tensor) -> Tensor:
        """u^T W v, the estimate of the largest singular value; differentiable in W, u and v held fixed."""
        return torch.dot(self.u, _matrix(weight) @ _matrix(self.v.view(1, *weight.shape[1:])).flatten())

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):  # sigma to full precision
            return weight / self.sigma(weight)


def _matrix(weight: Tensor) -> Tensor:
    """A weight (out, in, ...) as (out, ... * in): the singular values of (out, in * ...), and no copy of one that is channels_last."""
    return weight.movedim(1, -1).flatten(1)


def power_iteration(net: nn.Module, count: int = 1) -> None:
    """Advance u and v of every spectrally normalised layer of `net` by `count` power iterations."""
    for module in net.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrization = module.parametrizations.weight
            for _ in range(count):
                parametrization[0].iterate(parametrization.original)


def _normalised(layer: nn.Module, spectral_norm: bool) -> nn.Module:
    """Initialise a layer as the released code does (Xavier-uniform, zero bias), with spectral normalization if asked."""
    nn.init.xavier_uniform_(layer.weight)
    if getattr(layer, "bias", None) is not None:
        nn.init.zeros_(layer.bias)
    if spectral_norm:
        parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight))
    return layer


def _conv(inputs: int, outputs: int, kernel: int, sn: bool, bias: bool = True, kind: type[nn.Conv2d] = nn.Conv2d) -> nn.Module:
    return _normalised(kind(inputs, outputs, kernel, padding=kernel // 2, bias=bias), sn)


# ------------------------------------------------------------------------------- convolutions that change resolution


class UpConv(nn.Conv2d):
    """Nearest x2, then a 3x3 convolution: (B, C, H, W) -> (B, C', 2H, 2W).

    Equal to one transposed convolution with stride 2, whose 4x4 kernel is the 3x3 one summed over a 2x2 box: 4/9 of the products.
    """

    def forward(self, x: Tensor) -> Tensor:
        if len(x) * x.shape[2] * x.shape[3] < 256:  # so little to convolve that making the larger kernel costs more
            return super().forward(_upsample(x))
        kernel = _summed_over_a_box(_channels_last(self.weight.transpose(0, 1)), mirrored=True)
        return F.conv_transpose2d(x, kernel, self.bias, stride=2, padding=1)


class DownConv(nn.Conv2d):
    """A 3x3 convolution, then 2x2 average pooling: (B, C, H, W) -> (B, C', H/2, W/2).

    Equal to one convolution with stride 2, whose 4x4 kernel is the 3x3 one averaged over a 2x2 box: 4/9 of the products.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, _summed_over_a_box(self.weight, scale=0.25), self.bias, stride=2, padding=1)


def _summed_over_a_box(weight: Tensor, scale: float = 1.0, mirrored: bool = False) -> Tensor:
    """Kernels (C', C, 3, 3) convolved with a 2x2 box: (C', C, 4, 4), times `scale`, in both directions mirrored if asked."""
    side = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]], device=weight.device, dtype=weight.dtype)
    side = side.flip(0) if mirrored else side
    with torch.autocast(weight.device.type, enabled=False):  # sums to full precision
        kernel = (torch.kron(side, side) * scale) @ weight.movedim(1, -1).flatten(1, 2)  # (C', 16, C): no copies of channels_last
    return kernel.unflatten(1, (4, 4)).movedim(-1, 1)


# ---------------------------------------------------------------------------------------------- self-attention


class SelfAttention(nn.Module):
    """Self-attention over a feature map: y = x + gamma * o, gamma a learned scalar that starts at 0 (Section 3, Eq. 1-3).

    beta_{j,i} = softmax_i(<query_j, key_i>) is how much position j attends to position i; o_j = W_o sum_i beta_{j,i} value_i.

    Parameters
    ----------
    channels
        C, channels of the feature map; at least 8.
    variant
        "official": the released code; values have C/2 channels, keys and values are max-pooled 2x2 (N/4 keys).
        "paper": the formula of the paper; values have C/8 channels, N keys.

    Attributes
    ----------
    query, key, value, output
        1x1 convolutions without biases. Alone they have no spectral normalization; the networks add it.
    gamma
        0-d parameter.
    """

    def __init__(self, channels: int, variant: str = "official"):
        super().__init__()
        if variant not in ("official", "paper"):
            raise ParameterError(f"variant={variant!r} is not one of official, paper")
        if channels < 8:
            raise ParameterError(f"channels={channels} is too few for self-attention, which divides them by 8; at least 8")
        self.variant = variant
        inner = channels // 8
        width = channels // 2 if variant == "official" else inner
        self.query = _conv(channels, inner, 1, sn=False, bias=False)
        self.key = _conv(channels, inner, 1, sn=False, bias=False)
        self.value = _conv(channels, width, 1, sn=False, bias=False)
        self.output = _conv(width, channels, 1, sn=False, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, N, C/8), keys (B, M, C/8) and values (B, M, D) of a feature map (B, C, H, W); M keys, D value channels."""
        key, value = self.key(x), self.value(x)
        if self.variant == "official":
            key, value = F.max_pool2d(key, 2), F.max_pool2d(value, 2)
        return _positions(self.query(x)), _positions(key), _positions(value)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.project(x)
        # Zero-padding query and key to the value's width changes no product, and lets the fused kernel run, which never
        # writes the (N, M) map. The scale is 1: SAGAN does not divide by the square root of the width.
        pad = (0, value.shape[-1] - query.shape[-1])
        o = F.scaled_dot_product_attention(F.pad(query, pad)[:, None], F.pad(key, pad)[:, None], value[:, None], scale=1.0)
        o = o[:, 0].transpose(1, 2).unflatten(2, x.shape[2:])  # (B, N, D) -> (B, D, H, W)
        return x + self.gamma * self.output(o)


def _positions(x: Tensor) -> Tensor:
    """(B, D, H, W) -> (B, H * W, D), each position's D numbers side by side: else the fused kernel does not run on a CPU."""
    return x.flatten(2).transpose(1, 2).contiguous()


class ResidualBlock(nn.Module):
    """What Table 1 of the paper puts in attention's place: a residual block of as many parameters (but for gamma).

    ReLU, conv3x3 to c channels, ReLU, conv1x1 back, with 10 * C * c weights equal to those of the attention.
    """

    def __init__(self, channels: int, variant: str = "official"):
        super().__init__()
        attention = SelfAttention(channels, variant)
        weights = sum(p.numel() for p in attention.parameters()) - 1
        inner = max(1, round(weights / (10 * channels)))
        self.conv1 = _conv(channels, inner, 3, sn=False, bias=False)
        self.conv2 = _conv(inner, channels, 1, sn=False, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


def _attention_sites(config: Config, sites: tuple[int, ...], channels, sn: bool) -> nn.ModuleDict:
    """What stands at each attention site, keyed by the size of the feature map."""
    block = SelfAttention if config.attention_block == "attention" else ResidualBlock
    modules = nn.ModuleDict({str(site): block(channels(site), config.attention_variant) for site in sites})
    for conv in modules.modules():
        if sn and isinstance(conv, nn.Conv2d):
            parametrize.register_parametrization(conv, "weight", SpectralNorm(conv.weight))
    return modules


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
    """Batch norm whose statistics span groups of images, and processes, as the training asks for.

    In training mode each group of `group_size` consecutive images (0 or a number that does not divide the batch: all of it) is
    normalised by its own mean and biased variance, and the running statistics take in one group after the other, in the order of the
    global batch. So neither the number of processes nor gradient accumulation changes what is computed, while a group fits.
    torch's own SyncBatchNorm refuses CPU tensors and knows no groups.

    Parameters
    ----------
    channels
        C of the (B, C, H, W) input.
    num_classes
        Gains and biases are looked up by class (conditional batch norm); 0: one set.
    momentum
        Weight of a new group in the running statistics (unbiased variance, as in torch).
    """

    def __init__(self, channels: int, num_classes: int = 0, group_size: int = 0, momentum: float = 0.1):
        super().__init__()
        self.num_classes, self.group_size, self.momentum, self.eps = num_classes, group_size, momentum, 1e-5
        self.gain = nn.Parameter(torch.ones(max(1, num_classes), channels))
        self.bias = nn.Parameter(torch.zeros(max(1, num_classes), channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        # Processes at work, how many of them one group of images spans, and those; set by `span_processes`.
        self.world, self.span, self.span_group = 1, 1, None

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        if not self.training:
            x = F.batch_norm(x, self.running_mean, self.running_var, eps=self.eps)
        else:
            size = len(x) if self.span > 1 or not self.group_size or len(x) % self.group_size else self.group_size
            normalise = self._normalise_spanning if self.span > 1 else self._normalise_local
            parts, statistics = zip(*(normalise(part) for part in x.split(size)), strict=True)
            self._keep(torch.stack(statistics))
            x = parts[0] if len(parts) == 1 else torch.cat(parts)
        if self.num_classes:
            gain, bias = F.embedding(y, self.gain), F.embedding(y, self.bias)  # (B, C)
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
    def _keep(self, statistics: Tensor) -> None:
        """Take the statistics (groups, 2, C) of this process's groups, and of all others', into the running ones, in global order."""
        if self.world > self.span:
            gathered = [torch.empty_like(statistics) for _ in range(self.world)]
            dist.all_gather(gathered, statistics)
            statistics = torch.cat(gathered[:: self.span])
        for mean, var in statistics:
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var, self.momentum)


def span_processes(generator: nn.Module, share: int) -> None:
    """Tell the batch norms of `generator` how groups lie over the processes of a running process group.

    Parameters
    ----------
    share
        Images of one process in each forward pass.
    """
    world = dist.get_world_size()
    norms = [module for module in generator.modules() if isinstance(module, BatchNorm)]
    span = max(1, (norms[0].group_size or world * share) // share)
    # Groups of their own, apart from the one that gradients are averaged in: their collectives may interleave.
    groups = [dist.new_group(list(range(first, first + span))) for first in range(0, world, span)] if span > 1 else None
    for norm in norms:
        norm.world, norm.span, norm.span_group = world, span, groups and groups[dist.get_rank() // span]


# --------------------------------------------------------------------------------------------------- generator


class GeneratorBlock(nn.Module):
    """Residual block that doubles the resolution: (B, C, H, W) -> (B, C', 2H, 2W).

    CBN, ReLU, nearest x2, conv3x3, CBN, ReLU, conv3x3; shortcut conv1x1, nearest x2 (the two commute: cheaper this way round).
    """

    def __init__(self, inputs: int, outputs: int, sn: bool, norm):
        super().__init__()
        self.norm1, self.norm2 = norm(inputs), norm(outputs)
        self.conv1, self.conv2 = _conv(inputs, outputs, 3, sn, kind=UpConv), _conv(outputs, outputs, 3, sn)
        self.shortcut = _conv(inputs, outputs, 1, sn)
        _without_gradient(self.conv1.bias)

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        h = self.conv1(F.relu_(self.norm1(x, y)))
        h = self.conv2(F.relu_(self.norm2(h, y)))
        return h + _upsample(self.shortcut(x))


def _without_gradient(bias: nn.Parameter) -> None:
    """For a bias that batch norm takes away again: its gradient is zero but for rounding, which Adam would blow up to full steps."""
    bias.register_hook(torch.zeros_like)


def _upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


class Generator(nn.Module):
    """Latents and classes to images.

    Parameters
    ----------
    config
        `image_size`, `width`, `z_dim`, `num_classes`, `attention_g`, `attention_variant`, `attention_block`, `sn_g`,
        `batch_norm_group` and `batch_norm_momentum` matter here. At 128 px, width 64, 1000 classes and official attention at 32x32
        it has the 42,078,852 parameters of the released code.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.num_classes = _known_classes(config)
        self.z_dim, self.image_size = config.z_dim, config.image_size
        sn, momentum = config.sn_g, config.batch_norm_momentum

        def norm(channels):
            return BatchNorm(channels, self.num_classes, config.batch_norm_group, momentum)

        self.linear = _normalised(nn.Linear(config.z_dim, 4 * 4 * config.channels_g(4)), sn)
        sizes = (4, *config.maps_g)
        self.blocks = nn.ModuleDict(
            {str(b): GeneratorBlock(config.channels_g(a), config.channels_g(b), sn, norm) for a, b in pairwise(sizes)}
        )
        self.attention = _attention_sites(config, config.sites_g, config.channels_g, sn)
        for size, block in reversed(self.blocks.items()):
            if size in self.attention:
                break
            # What these add to a channel passes the later shortcuts as a constant, and the last norm takes it away.
            _without_gradient(block.conv2.bias)
            _without_gradient(block.shortcut.bias)
        # The released code lets the statistics of this last, unconditional norm move ten times more slowly.
        self.norm = BatchNorm(config.channels_g(config.image_size), 0, config.batch_norm_group, momentum / 10)
        self.output = _conv(config.channels_g(config.image_size), 3, 3, sn)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Images (B, 3, S, S) in [-1, 1] from latents z (B, z_dim) and classes y (B,); y may be None when unconditional."""
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ParameterError(f"z has shape {tuple(z.shape)}; the generator takes (B, {self.z_dim})")
        _check_labels(y, self.num_classes)
        x = self.linear(z).view(len(z), -1, 4, 4)
        x = _channels_last(x)
        for size, block in self.blocks.items():
            x = block(x, y)
            if size in self.attention:
                x = self.attention[size](x)
        return torch.tanh(self.output(F.relu_(self.norm(x, None))))


# ----------------------------------------------------------------------------------------------- discriminator


class DiscriminatorBlock(nn.Module):
    """Residual block of D: (B, C, H, W) -> (B, C', H/2, W/2), or the same size without `downsample`.

    ReLU (but not in the `first` block, which sees pixels), conv3x3, ReLU, conv3x3, average pooling; shortcut average pooling, conv1x1.
    """

    def __init__(self, inputs: int, outputs: int, sn: bool, downsample: bool = True, first: bool = False):
        super().__init__()
        self.downsample, self.first = downsample, first
        self.conv1 = _conv(inputs, outputs, 3, sn)
        self.conv2 = _conv(outputs, outputs, 3, sn, kind=DownConv if downsample else nn.Conv2d)
        self.shortcut = _conv(inputs, outputs, 1, sn) if downsample or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.relu_(self.conv1(x if self.first else F.relu(x))))  # not in place before the shortcut, which takes x
        return h + self.shortcut(F.avg_pool2d(x, 2) if self.downsample else x)


class Discriminator(nn.Module):
    """Images and classes to logits, with the projection of Miyato & Koyama (2018): D(x, y) = w h(x) + b + <embedding(y), h(x)>.

    Parameters
    ----------
    config
        `image_size`, `width` (or `width_d`), `num_classes`, `attention_d`, `attention_variant`, `attention_block` and `sn_d` matter
        here. At 128 px, width 64, 1000 classes and official attention at 32x32 it has the 39,463,618 parameters of the released code.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.num_classes = _known_classes(config)
        sn, sizes = config.sn_d, config.maps_d
        channels = [config.channels_d(size) for size in sizes]
        self.blocks = nn.ModuleDict(
            {str(s): DiscriminatorBlock(i, o, sn, first=s == sizes[0]) for s, i, o in zip(sizes, [3, *channels], channels, strict=False)}
        )
        self.flat = nn.Sequential(
            *(DiscriminatorBlock(channels[-1], channels[-1], sn, downsample=False) for _ in range(config.d_flat_blocks))
        )
        self.attention = _attention_sites(config, config.sites_d, config.channels_d, sn)
        self.linear = _normalised(nn.Linear(channels[-1], 1), sn)
        if self.num_classes:
            self.embedding = _normalised(nn.Embedding(self.num_classes, channels[-1]), sn)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Logits (B,) from images x (B, 3, S, S) in [-1, 1] and classes y (B,); y may be None when unconditional."""
        _check_labels(y, self.num_classes)
        x = _channels_last(x)
        for size, block in self.blocks.items():
            x = block(x)
            if size in self.attention:
                x = self.attention[size](x)
        h = F.relu(self.flat(x)).sum((2, 3))  # (B, C)
        logits = self.linear(h).squeeze(1)
        if self.num_classes:
            logits = logits + (self.embedding(y) * h).sum(1)
        return logits


def _channels_last(x: Tensor) -> Tensor:
    """The layout in memory that convolutions, and attention after them, are fastest in; it is kept from layer to layer."""
    return x.contiguous(memory_format=torch.channels_last)


def _known_classes(config: Config) -> int:
    if config.num_classes is None:
        raise ParameterError(f"num_classes is not known for data={config.data!r} before it is opened; give num_classes (0: unconditional)")
    return config.num_classes


def _check_labels(y: Tensor | None, num_classes: int) -> None:
    if num_classes and y is None:
        raise ParameterError(f"y is None, but the network is conditional: give a class below {num_classes} for each image")
