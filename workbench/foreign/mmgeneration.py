"""mmgeneration (OpenMMLab), its SAGAN configurations, which read images as BGR, and the files that it converted from PyTorch-StudioGAN."""

import re

from .layouts import Facts, Layout
from .weights import Weights

_BLOCK = {
    "block.conv1": "conv_blocks.{n}.conv_1.conv", "block.conv2": "conv_blocks.{n}.conv_2.conv",
    "block.shortcut": "conv_blocks.{n}.shortcut.conv",
}  # fmt: skip
_ATTENTION = {
    "attention.query": "conv_blocks.{n}.theta.conv", "attention.key": "conv_blocks.{n}.phi.conv",
    "attention.value": "conv_blocks.{n}.g.conv", "attention.output": "conv_blocks.{n}.o.conv", "attention.gamma": "conv_blocks.{n}.gamma",
}  # fmt: skip


def _facts(weights: Weights) -> Facts:
    """From the configuration that training writes into a file, else from the name, as the published files are called."""
    meta = weights.notes.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    config, name = str(meta.get("config", "")), weights.path.name

    def found(pattern: str, text: str) -> str:
        match = re.search(pattern, text)
        return match[1] if match else ""

    # Only the schedule of BigGAN leaves the gains without spectral normalization; its eps is 1e-5.
    plain_gains = any(key.endswith("weight_embedding.weight") for key in weights.tensors)
    eps = float(found(r"norm_eps=(\d+(?:\.\d+)?(?:e-\d+)?)\b", config) or (1e-5 if plain_gains else 1e-4))
    converted = "convert-studio" in name
    inplace = converted or "wReLUinplace" in name or "inplace=True" in config
    init = found(r"init_cfg=dict\(type='(\w+)'", config).lower()
    iteration = meta.get("iter")
    if not isinstance(iteration, int) or not 0 <= iteration < 10**9:
        iteration = int(found(r"iter(\d{1,9})", name) or 0)
    d_steps = int(found(r"disc_steps?=(\d{1,4})", config) or found(r"ndisc(\d{1,4})", name) or 1)  # iterations count steps of D
    return Facts(
        dict(batch_norm_eps=eps, d_relu_inplace=inplace),
        bgr=not converted,
        gain_offset=0.0 if init in ("sagan", "sngan", "sngan-proj", "gan-proj") else 1.0,
        step=iteration // max(1, d_steps),
    )


LAYOUT = Layout(
    name="mmgeneration",
    title="mmgeneration",
    generator={
        "linear": "noise2feat", **_BLOCK, **_ATTENTION, "norm": "to_rgb.bn", "output": "to_rgb.conv",
        "block.norm1": "conv_blocks.{n}.norm_1.norm", "block.norm1.gain": "conv_blocks.{n}.norm_1.weight_embedding",
        "block.norm1.bias": "conv_blocks.{n}.norm_1.bias_embedding",
        "block.norm2": "conv_blocks.{n}.norm_2.norm", "block.norm2.gain": "conv_blocks.{n}.norm_2.weight_embedding",
        "block.norm2.bias": "conv_blocks.{n}.norm_2.bias_embedding",
    },
    discriminator={
        **_BLOCK, **_ATTENTION, "linear": "decision", "embedding": "proj_y",
        "first.conv1": "from_rgb.conv_1.conv", "first.conv2": "from_rgb.conv_2.conv", "first.shortcut": "from_rgb.shortcut.conv",
    },
    halves={32: (2, 2), 128: (5, 1)},  # at 64 px its D goes down to 2x2
    ema_decay=0.999,
    facts=_facts,
)  # fmt: skip
