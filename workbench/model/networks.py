"""The generator and the discriminator of SAGAN.

Follows the released TensorFlow code (Zhang et al., 2019); where it differs from the paper, parameters choose between the two.
Shapes: B images, C channels, S the image size.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Config
from ..messages import ParameterError
from .attention import ResidualBlock, SelfAttention
from .layers import (
    BatchNorm,
    DownConv,
    UpConv,
    channels_last,
    conv,
    initialise,
    make_orthogonal,
    spectral_norm,
    upsample,
    zero_gradient_of_bias,
)  # fmt: skip

# --------------------------------------------------------------------------------------------------- generator


class GeneratorBlock(nn.Module):
    """Residual block that doubles the resolution: (B, C, H, W) -> (B, C', 2H, 2W).

    CBN, ReLU, nearest x2, conv3x3, CBN, ReLU, conv3x3; shortcut conv1x1, nearest x2 (the two commute: cheaper this way round).
    """

    def __init__(self, inputs: int, outputs: int, sn: bool, norm):
        super().__init__()
        self.norm1, self.norm2 = norm(inputs), norm(outputs)
        self.conv1, self.conv2 = conv(inputs, outputs, 3, sn, kind=UpConv), conv(outputs, outputs, 3, sn)
        self.shortcut = conv(inputs, outputs, 1, sn)
        zero_gradient_of_bias(self.conv1)

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        h = self.conv1(F.relu_(self.norm1(x, y)))  # (B, C', 2H, 2W)
        h = self.conv2(F.relu_(self.norm2(h, y)))  # (B, C', 2H, 2W)
        return h + upsample(self.shortcut(x))


class Generator(nn.Module):
    """Latents and classes to images.

    Parameters
    ----------
    config
        `image_size`, `width`, `z_dim`, `num_classes`, `attention_g`, `attention_variant`, `attention_block`, `sn_g`,
        `sn_gains`, `init` and the three parameters of batch norm matter here. At 128 px, width 64, 1000 classes and official attention at 32x32
        it has the 42,078,852 parameters of the released code.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.num_classes = _known_classes(config)
        self.z_dim, self.image_size = config.z_dim, config.image_size
        sn, momentum = config.sn_g, config.batch_norm_momentum

        def norm(channels):
            return BatchNorm(channels, self.num_classes, config.batch_norm_group, momentum, config.batch_norm_eps, config.sn_gains)

        self.linear = initialise(nn.Linear(config.z_dim, 4 * 4 * config.channels_g(4)), sn)
        sizes = (4, *config.maps_g)
        blocks = {str(b): GeneratorBlock(config.channels_g(a), config.channels_g(b), sn, norm) for a, b in pairwise(sizes)}
        self.blocks = nn.ModuleDict(blocks)
        self.attention = _attention_sites(config, config.sites_g, config.channels_g, sn)
        for size, block in reversed(blocks.items()):
            if size in self.attention:
                break
            # Behind the last attention, shortcuts pass these constants on unchanged to the last norm, which cancels them.
            zero_gradient_of_bias(block.conv2)
            zero_gradient_of_bias(block.shortcut)
        # As in the released code, the running statistics of this unconditional norm move ten times more slowly.
        self.norm = BatchNorm(config.channels_g(config.image_size), 0, config.batch_norm_group, momentum / 10, config.batch_norm_eps)
        self.output = conv(config.channels_g(config.image_size), 3, 3, sn)
        if config.init == "orthogonal":
            make_orthogonal(self)

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Images (B, 3, S, S) in [-1, 1] from latents z (B, z_dim) and classes y (B,), or None if unconditional."""
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ParameterError(f"z has shape {tuple(z.shape)}; the generator takes (B, {self.z_dim})")
        _check_labels(y, self.num_classes)
        x = channels_last(self.linear(z).view(len(z), -1, 4, 4))  # (B, C, 4, 4)
        for size, block in self.blocks.items():
            x = block(x, y)  # (B, C', size, size)
            if size in self.attention:
                x = self.attention[size](x)
        return torch.tanh(self.output(F.relu_(self.norm(x, None))))  # (B, 3, S, S)


# ----------------------------------------------------------------------------------------------- discriminator


class DiscriminatorBlock(nn.Module):
    """Residual block of D: (B, C, H, W) -> (B, C', H/2, W/2), or the same size without `downsample`.

    ReLU (but not in the `first` block, which sees pixels), conv3x3, ReLU, conv3x3, average pooling; shortcut average pooling, conv1x1.
    Between the two convolutions it has C' channels, or C if `narrow` (but not in the `first` block). With `inplace` the shortcut, too, begins
    after the first ReLU, which in some public code works in place.
    """

    def __init__(
        self, inputs: int, outputs: int, sn: bool, downsample: bool = True, first: bool = False, narrow: bool = False, inplace: bool = False
    ):
        super().__init__()
        self.downsample, self.first, self.inplace = downsample, first, inplace
        inner = inputs if narrow and not first else outputs
        self.conv1 = conv(inputs, inner, 3, sn)
        self.conv2 = conv(inner, outputs, 3, sn, kind=DownConv if downsample else nn.Conv2d)
        self.shortcut = conv(inputs, outputs, 1, sn) if downsample or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.first else F.relu(x)  # (B, C, H, W)
        x = h if self.inplace else x
        h = self.conv1(h)  # (B, C', H, W)
        h = self.conv2(F.relu_(h))  # (B, C', H/2, W/2)
        return h + self.shortcut(F.avg_pool2d(x, 2) if self.downsample else x)


class Discriminator(nn.Module):
    """Images and classes to logits, with the projection of Miyato & Koyama (2018): D(x, y) = w h(x) + b + <embedding(y), h(x)>.

    Parameters
    ----------
    config
        `image_size`, `width` (or `width_d`), `num_classes`, the parameters that begin with `d_`, `attention_d`, `attention_variant`,
        `attention_block`, `sn_d` and `init` matter here. At 128 px, width 64, 1000 classes and official attention at 32x32 it has the 39,463,618 parameters of the released code.
    """

    def __init__(self, config: Config):
        super().__init__()
        self.num_classes = _known_classes(config)
        sn, sizes = config.sn_d, config.maps_d
        channels = [config.channels_d(size) for size in sizes]
        inplace = config.d_relu_inplace
        self.blocks = nn.ModuleDict(
            {
                str(s): DiscriminatorBlock(i, o, sn, first=s == sizes[0], narrow=config.d_narrow, inplace=inplace)
                for s, i, o in zip(sizes, [3, *channels], channels, strict=False)
            }
        )
        last = config.last_channels_d
        flat = [channels[-1], *[last] * config.d_flat_blocks]
        self.flat = nn.Sequential(*(DiscriminatorBlock(i, o, sn, downsample=False, inplace=inplace) for i, o in pairwise(flat)))
        self.attention = _attention_sites(config, config.sites_d, config.channels_d, sn)
        self.linear = initialise(nn.Linear(last, 1), sn)
        if self.num_classes:
            self.embedding = initialise(nn.Embedding(self.num_classes, last), sn)
        if config.init == "orthogonal":
            make_orthogonal(self)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Logits (B,) from images x (B, 3, S, S) in [-1, 1] and classes y (B,), or None if unconditional."""
        _check_labels(y, self.num_classes)
        x = channels_last(x)  # (B, 3, S, S)
        for size, block in self.blocks.items():
            x = block(x)  # (B, C, size, size)
            if size in self.attention:
                x = self.attention[size](x)
        h = F.relu(self.flat(x)).sum((2, 3))  # (B, C)
        logits = self.linear(h).squeeze(1)  # (B,)
        if self.num_classes:
            logits = logits + (self.embedding(y) * h).sum(1)  # projection on the class
        return logits


# --------------------------------------------------------------------------------------------------- both networks


def _attention_sites(config: Config, sites: tuple[int, ...], channels, sn: bool) -> nn.ModuleDict:
    """The block at each attention site, keyed by the size of the feature map."""
    block = SelfAttention if config.attention_block == "attention" else ResidualBlock
    modules = nn.ModuleDict({str(site): block(channels(site), config.attention_variant) for site in sites})
    for module in modules.modules() if sn else ():
        if isinstance(module, nn.Conv2d):
            spectral_norm(module)
    return modules


def _known_classes(config: Config) -> int:
    if config.num_classes is None:
        raise ParameterError(f"num_classes is not known for data={config.data!r} before it is opened; give num_classes (0: unconditional)")
    return config.num_classes


def _check_labels(y: Tensor | None, num_classes: int) -> None:
    if num_classes and y is None:
        raise ParameterError(f"y is None, but the network is conditional: give a class below {num_classes} for each image")
