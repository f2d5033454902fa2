"""BigGAN-PyTorch (ajbrock), as its scripts train SAGAN: without shared class embeddings and hierarchical latents.

Weights are stored before normalisation, with u before the iteration that each forward pass makes. Shared embeddings are folded into gains.
"""

from .layouts import Facts, Layout

_BLOCK = {"block.conv1": "blocks.{n}.conv1", "block.conv2": "blocks.{n}.conv2", "block.shortcut": "blocks.{n}.conv_sc"}
_ATTENTION = {
    "attention.query": "blocks.{n}.theta", "attention.key": "blocks.{n}.phi", "attention.value": "blocks.{n}.g",
    "attention.output": "blocks.{n}.o", "attention.gamma": "blocks.{n}.gamma",
}  # fmt: skip

LAYOUT = Layout(
    name="biggan-pytorch",
    title="BigGAN-PyTorch",
    generator={
        "linear": "linear", **_BLOCK, **_ATTENTION, "norm": "output_layer.0", "output": "output_layer.2", "shared": "shared",
        "block.norm1": "blocks.{n}.bn1", "block.norm1.gain": "blocks.{n}.bn1.gain", "block.norm1.bias": "blocks.{n}.bn1.bias",
        "block.norm2": "blocks.{n}.bn2", "block.norm2.gain": "blocks.{n}.bn2.gain", "block.norm2.bias": "blocks.{n}.bn2.bias",
    },
    discriminator={**_BLOCK, **_ATTENTION, "linear": "linear", "embedding": "embed"},
    halves={32: (2, 2), 64: (4, 1), 128: (5, 1)},
    ema_decay=0.9999,
    facts=lambda weights: Facts(dict(batch_norm_eps=1e-5)),
)  # fmt: skip
