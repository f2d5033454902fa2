"""PyTorch-StudioGAN (POSTECH-CVLab), its SAGAN configurations.

Gains and biases are spectrally normalised linear layers of one-hot classes. ReLUs work in place, in front of the shortcuts of D's blocks too.
"""

from .layouts import Facts, Layout
from .weights import Weights

_BLOCK = {"block.conv1": "blocks.{n}.conv2d1", "block.conv2": "blocks.{n}.conv2d2", "block.shortcut": "blocks.{n}.conv2d0"}
_ATTENTION = {
    "attention.query": "blocks.{n}.conv1x1_theta", "attention.key": "blocks.{n}.conv1x1_phi", "attention.value": "blocks.{n}.conv1x1_g",
    "attention.output": "blocks.{n}.conv1x1_attn", "attention.gamma": "blocks.{n}.sigma",
}  # fmt: skip


def _facts(weights: Weights) -> Facts:
    step = weights.notes.get("step")
    return Facts(dict(batch_norm_eps=1e-4, d_relu_inplace=True), step=step if isinstance(step, int) and 0 <= step < 10**9 else 0)


LAYOUT = Layout(
    name="studiogan",
    title="PyTorch-StudioGAN",
    generator={
        "linear": "linear0", **_BLOCK, **_ATTENTION, "norm": "bn4", "output": "conv2d5",
        "block.norm1": "blocks.{n}.bn1.bn", "block.norm1.gain": "blocks.{n}.bn1.gain", "block.norm1.bias": "blocks.{n}.bn1.bias",
        "block.norm2": "blocks.{n}.bn2.bn", "block.norm2.gain": "blocks.{n}.bn2.gain", "block.norm2.bias": "blocks.{n}.bn2.bias",
    },
    discriminator={**_BLOCK, **_ATTENTION, "linear": "linear1", "embedding": "embedding"},
    halves={32: (2, 2), 64: (4, 1), 128: (5, 1)},
    ema_decay=0.9999,
    facts=_facts,
    gains_transposed=True,
)  # fmt: skip
