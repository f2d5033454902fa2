"""Presets: settings to start from, and defaults that depend on the data.

`docs/presets.md` lists the source of each preset, and where it differs from it.
"""

DEFAULT = "twins32"

# Defaults that depend on the data. The twins are simple and allow high learning rates; real images do not. The number of classes of a folder
# is known only after opening it.
FOLDER_DATA: dict = dict(num_classes=None, lr_g=3e-4, lr_d=8e-4, evaluate_every=0, evaluate_n=5000)
BUILT_IN_DATA: dict[str, dict] = {
    "twins": dict(num_classes=6, lr_g=2e-3, lr_d=2.5e-3, evaluate_every=250, evaluate_n=500),
    "binding": dict(num_classes=0, lr_g=1e-4, lr_d=4e-4, evaluate_every=500, evaluate_n=500),
    "binding-near": dict(num_classes=0, lr_g=1e-4, lr_d=4e-4, evaluate_every=500, evaluate_n=500),
    "cifar10": {**FOLDER_DATA, "num_classes": 10},
    "imagenet": {**FOLDER_DATA, "num_classes": 1000},
}

HUGGING_FACE = "hf:"  # begins the names of data sets of that library, see `data.hugging_face`

_IMAGENET = dict(
    data="imagenet", image_size=128, width=64, attention_g="32", attention_d="32", lr_g=1e-4, lr_d=4e-4, beta2=0.999,
    batch_size=256, z_dim=128, batch_norm_group=64, batch_norm_momentum=0.001, steps=1_000_000, ema_decay=0.9999, ema_start=1000,
    log_every=100, sample_every=5_000, checkpoint_every=10_000, keep_checkpoints=20,
)  # fmt: skip

PRESETS: dict[str, dict] = {
    # The default: minutes on two CPU cores.
    "twins32": {},
    # For the question whether attention helps (docs/experiments.md): 64 channels and 8 query dimensions at the map where it is. Of the rates and
    # batches tried, these collapse last: G still does within 1,500 steps, and longer runs are untried.
    "binding32": dict(
        data="binding", width=16, width_d=32, max_multiplier=4, z_dim=64, attention_g="8", attention_d="8", batch_size=64, steps=20_000,
        sample_every=500, checkpoint_every=2000,
    ),
    # mmgeneration's configuration for CIFAR-10 (IS 9.32, FID 9.43). Differs in when power iterations run and in the momentum of G's last norm.
    "cifar10": dict(
        data="cifar10", batch_size=64, attention_g="16", z_dim=128, width=256, width_d=128, max_multiplier=1, d_downsamples=2, d_flat_blocks=2, lr_g=2e-4, lr_d=2e-4,
        beta1=0.5, beta2=0.999, d_steps=5, steps=100_000, ema_decay=0.0, augment="flip", init="orthogonal", batch_norm_eps=1e-4, sn_gains=True,
        log_every=50, sample_every=1000, checkpoint_every=2500, keep_checkpoints=20,
    ),
    # The released TensorFlow code for the paper's million steps. Differs in details of spectral norm and Adam; adds an EMA of G, which training
    # does not see.
    "imagenet128": _IMAGENET,
    # The same with the attention and the Adam of the paper. Table 2 has attention at 64x64; 32x32 has the lowest FID of Table 1.
    "imagenet128-paper": {**_IMAGENET, "attention_variant": "paper", "beta2": 0.9},
    # mmgeneration's SAGAN on BigGAN's schedule (IS 69.54, FID 12.83): 8 x 32 images, batch norm over each 32. Differs in when power iterations
    # run, in the momentum of G's last norm, in how gains and biases start, and in resizing.
    "imagenet128-biggan": {
        **_IMAGENET, "attention_g": "64", "attention_d": "64", "batch_norm_group": 32, "batch_norm_momentum": 0.1, "ema_decay": 0.999,
        "ema_start": 2000,
    },
    # Miyato & Koyama's network, the baseline of Table 2: 4 x 16 images, spectral normalization in D only, five D steps. Differs in the batch of
    # the G step (theirs 128), the decay of the learning rate over the last ninth, the scale of initial weights, and noise added to real images.
    "sngan-projection": {
        **_IMAGENET, "attention_g": "none", "attention_d": "none", "sn_g": False, "d_narrow": True, "d_steps": 5, "lr_g": 2e-4, "lr_d": 2e-4,
        "beta2": 0.9, "batch_size": 64, "batch_norm_group": 16, "batch_norm_momentum": 0.1, "batch_norm_eps": 2e-5, "steps": 450_000,
        "ema_decay": 0.0, "ema_start": 0,
    },
}  # fmt: skip
