"""Presets: settings to start from, and defaults that depend on the data."""

DEFAULT = "twins32"

# Defaults that depend on the data. The twins are simple and allow high learning rates; real images do not. The number of classes of a folder
# is known only after opening it.
FOLDER_DATA: dict = dict(num_classes=None, lr_g=3e-4, lr_d=8e-4, evaluate_every=0, evaluate_n=5000)
BUILT_IN_DATA: dict[str, dict] = {
    "twins": dict(num_classes=6, lr_g=1.5e-3, lr_d=2.5e-3, evaluate_every=250, evaluate_n=500),
    "binding": dict(num_classes=0, lr_g=1e-3, lr_d=1e-3, evaluate_every=250, evaluate_n=500),
    "binding-near": dict(num_classes=0, lr_g=1e-3, lr_d=1e-3, evaluate_every=250, evaluate_n=500),
    "cifar10": {**FOLDER_DATA, "num_classes": 10},
    "imagenet": {**FOLDER_DATA, "num_classes": 1000},
}

_IMAGENET = dict(
    data="imagenet", image_size=128, width=64, attention_g="32", attention_d="32", lr_g=1e-4, lr_d=4e-4, beta2=0.999,
    batch_size=256, z_dim=128, batch_norm_group=64, batch_norm_momentum=0.001, steps=1_000_000, ema_decay=0.9999, ema_start=1000,
    augment="flip", log_every=100, sample_every=5_000, checkpoint_every=10_000, keep_checkpoints=20,
)  # fmt: skip

PRESETS: dict[str, dict] = {
    # The default: minutes on two CPU cores.
    "twins32": {},
    # The published CIFAR-10 configuration (mmgeneration, IS 9.32, FID 9.43): G 4x256 and D 4x128 channels.
    "cifar10": dict(
        data="cifar10", batch_size=64, z_dim=128, width=256, width_d=128, max_multiplier=1, d_downsamples=2, d_flat_blocks=2, lr_g=2e-4, lr_d=2e-4,
        beta1=0.5, beta2=0.999, d_steps=5, steps=100_000, ema_decay=0.0, log_every=50, sample_every=1000,
        checkpoint_every=2500, keep_checkpoints=20,
    ),
    # The released TensorFlow code, with an EMA of G beside it.
    "imagenet128": _IMAGENET,
    # The formula and the Adam of the paper.
    "imagenet128-paper": {**_IMAGENET, "attention_variant": "paper", "beta2": 0.9},
    # The schedule of the best reproduction (mmgeneration, IS 69.54, FID 12.83): 8 x 32 images, batch norm over each 32.
    "imagenet128-biggan": {**_IMAGENET, "batch_norm_group": 32, "ema_decay": 0.999, "ema_start": 2000, "augment": "none"},
    # The baseline of Table 2: spectral normalization in D only, no attention, five D steps.
    "sngan-projection": {
        **_IMAGENET, "attention_g": "none", "attention_d": "none", "sn_g": False, "d_steps": 5, "lr_g": 2e-4, "lr_d": 2e-4,
        "beta2": 0.9,
    },
}  # fmt: skip
