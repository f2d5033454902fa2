"""Settings: every parameter with its meaning and range, the presets, and reading parameters.

A `Config` is frozen and complete: it is what a run folder stores (`config.json`) and what models are rebuilt from.
This module needs the standard library only.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from .files import UnreadableError, open_regular
from .parameters import ParameterError, Parameters, parameter, read_list, read_text, shown, shown_text, whole
from .places import DEMO, data_dir, explicit_path, name_fault, outputs_dir, run_folder

# ----------------------------------------------------------------------------------------------------- parameters

# What follows from the data where it is not given (None). Rates: the twins are simple and bear high ones; real images do not.
FOLDER_DATA = dict(
    num_classes=None, lr_g=3e-4, lr_d=8e-4, evaluate_every=0, evaluate_n=5000
)  # how many classes a folder has shows when it is opened
BUILT_IN_DATA = {
    "twins": dict(num_classes=6, lr_g=1.5e-3, lr_d=2.5e-3, evaluate_every=250, evaluate_n=500),
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
    # The released TensorFlow code, with an averaged generator beside it.
    "imagenet128": _IMAGENET,
    # The formula and the Adam of the paper.
    "imagenet128-paper": {**_IMAGENET, "attention_variant": "paper", "beta2": 0.9},
    # The schedule of the best reproduction (mmgeneration, IS 69.54, FID 12.83): 8 x 32 images, each batch norm for itself.
    "imagenet128-biggan": {**_IMAGENET, "batch_norm_group": 32, "ema_decay": 0.999, "ema_start": 2000, "augment": "none"},
    # The baseline of Table 2: spectral normalization in D only, no attention, five D steps.
    "sngan-projection": {
        **_IMAGENET, "attention_g": "none", "attention_d": "none", "sn_g": False, "d_steps": 5, "lr_g": 2e-4, "lr_d": 2e-4,
        "beta2": 0.9,
    },
}  # fmt: skip


def _read_data(value, refuse) -> str:
    """A built-in name, or the absolute path of a folder of images: as given, or, where that does not exist, in the data folder."""
    text = read_text(value, refuse)
    if text.strip() in BUILT_IN_DATA:
        return text.strip()
    if not text.strip():
        refuse(f"{', '.join(BUILT_IN_DATA)} or a folder")
    try:
        path = Path(os.path.expanduser(text))
        in_data_folder = not os.path.exists(path) and os.path.exists(data_dir() / path)
        return os.path.realpath(data_dir() / path if in_data_folder else path)
    except (OSError, ValueError):
        return refuse("the path of a folder")


def _read_resume(value, refuse) -> str:
    """ "run" or "run@step"; an explicit path is made absolute, and becomes a name where it lies in the outputs folder."""
    text = read_text(value, refuse).strip()
    name, step = split_resume(text)
    try:
        path = explicit_path(value if isinstance(value, os.PathLike) and step is None else name)
        folder = path and Path(os.path.realpath(path))
    except (OSError, ValueError):
        refuse("the name or path of a run")
    if folder:
        name = folder.name if folder in (outputs_dir() / folder.name, DEMO) else str(folder)
    return name if step is None else f"{name}@{step if whole(step) is None else whole(step)}"


def _read_sites(value, refuse) -> str:
    """Attention sites, given as 16, "16", "16,32", "[16, 32]", [16, 32] or "none", as canonical text."""
    items = value if isinstance(value, (list, tuple)) else str(value).strip().strip("[]()").split(",")
    items = [str(item).strip() for item in items if str(item).strip()]
    if not items or items == ["none"] or items == ["None"]:
        return "none"
    sizes = {whole(item) for item in items}
    if None in sizes:
        refuse('a list of feature-map sizes such as "32", "32,64" or "none"')
    return ",".join(map(str, sorted(sizes)))


_SYNONYMS = {
    word: names
    for names, words in {
        "preset": "config cfg base template",
        "run": "name run_name output out outdir output_dir out_dir logdir log_dir exp_name experiment_name",
        "data": "dataset data_dir dataset_dir data_path dataroot root path folder images",
        "image_size": "resolution res size imsize img_size imgsize image_resolution imres",
        "num_classes": "classes n_classes nclass nclasses class_count num_labels conditional",
        "skip_unreadable": "skip_bad skip_broken ignore_unreadable",
        "augment": "aug augmentation flip hflip mirror diffaug diffaugment",
        "width": "ch channels base_channels nf ngf filters num_filters conv_dim hidden width_g",
        "width_d": "ndf d_ch d_channels channels_d",
        "z_dim": "latent_dim latent latent_size nz z dim_z zdim noise_dim",
        "attention_g attention_d": "attention attn self_attention attention_sites attention_layers attention_resolutions",
        "attention_g": "g_attn attn_g g_attention",
        "attention_d": "d_attn attn_d d_attention",
        "sn_g sn_d": "sn spectral_norm spectral_normalization use_sn",
        "batch_norm_group": "bn_group ghost_batch ghost_bn virtual_batch bn_size",
        "batch_norm_momentum": "bn_momentum momentum",
        "lr_g lr_d": "lr lrs learning_rate rate adam_lr",
        "lr_g": "g_lr lrg generator_lr lr_generator learning_rate_g",
        "lr_d": "d_lr lrd discriminator_lr lr_discriminator learning_rate_d",
        "beta1 beta2": "beta betas adam_betas",
        "beta1": "b1 adam_beta1 beta_1",
        "beta2": "b2 adam_beta2 beta_2",
        "d_steps": "n_dis d_iters d_iter n_critic ncritic critic_iters critic_steps num_d_steps disc_steps",
        "batch_size": "batch bs batchsize batch_sz minibatch train_batch_size",
        "gradient_accumulation": "accumulation accum accumulate grad_accum accumulation_steps grad_accum_steps gradient_accumulation_steps",
        "steps": "iterations iteration iters iter max_steps num_steps n_steps n_iter n_iters niter num_iters max_iter max_iters num_iterations "
        "n_iterations max_iterations total_iterations iteration_count total_steps total_iters "
        "train_steps g_steps epochs epoch num_epochs n_epochs max_epochs nimg kimg",
        "ema_decay": "ema ema_beta ema_rate averaging",
        "seed": "random_seed manual_seed rng_seed random_state",
        "num_processes": "gpus num_gpus n_gpus ngpu gpu_count nproc nprocs processes world_size nproc_per_node",
        "device": "gpu cuda cpu use_cuda accelerator",
        "mixed_precision": "fp16 bf16 amp precision half autocast use_amp tf32",
        "log_every": "log_freq log_interval log_step log_steps print_every",
        "sample_every": "sample_freq sample_interval sample_step",
        "checkpoint_every": "save_every save_freq save_interval ckpt_every checkpoint_freq checkpoint_interval model_save_step",
        "keep_checkpoints": "keep max_to_keep save_total_limit num_checkpoints",
        "evaluate_every": "eval_every eval_freq eval_interval fid_every evaluate",
        "evaluate_n": "n eval_n fid_n num_fid n_samples num_samples",
        "evaluate_extractor": "extractor fid_extractor feature_extractor inception",
        "resume": "checkpoint ckpt restore load continue fork resume_from pretrained init_from",
        "note": "notes comment description message",
        "tags": "tag label labels keywords",
        # What there is no parameter for, though one has a name that resembles it.
        "": "weight_decay lr_decay decay eps crop_size warmup_steps num_heads depth port project prefetch",
    }.items()
    for word in words.split()
}  # fmt: skip


@dataclass(frozen=True)
class Config(Parameters):
    """Every setting of a run. The defaults are those of the preset `twins32`.

    Make one with `Config.preset(name, **overrides)` or `Config.from_parameters(mapping)`; `help` for each parameter:
    `python -m workbench parameters`.

    Raises
    ------
    ParameterError
        If a value is out of range or two values do not go together; the message names parameter, value and cure.
    """

    none = "the value of the preset"
    synonyms = _SYNONYMS

    # what is trained, and where it goes
    preset: str = parameter("twins32", "settings to start from", choices=PRESETS)
    run: str = parameter("", "name of the run folder; empty: made from the preset and what differs from it")
    data: str = parameter("twins", "twins, cifar10, imagenet, or the path of a folder of images (folder/<class>/*)", read=_read_data)
    image_size: int = parameter(32, "height and width of the images in pixels", choices=(32, 64, 128, 256))
    num_classes: int | None = parameter(None, "classes to condition on; 0: unconditional; None: as many as the data has", low=0)
    pairs: int = parameter(1, "of glyphs in an image of twins; more are harder", choices=(1, 2, 4))
    skip_unreadable: bool = parameter(False, "leave unreadable image files out instead of refusing to start")
    augment: str = parameter("none", "of real images (flip) or of real and fake ones (diffaug)", choices=("none", "flip", "diffaug"))

    # the networks
    width: int = parameter(24, "channels of G at full resolution; at resolution r it has width * min(max_multiplier, size / r)", low=8)
    width_d: int = parameter(0, "the same for D; 0: as G", low=0)
    max_multiplier: int = parameter(16, "bound on the growth of the channels towards small maps; 1: the same width everywhere", low=1)
    d_downsamples: int = parameter(0, "down-sampling blocks of D; 0: down to 4x4", low=0)
    d_flat_blocks: int = parameter(1, "blocks of D after the down-sampling ones, at the last resolution", low=0)
    z_dim: int = parameter(32, "dimension of the latent vector z", low=1)
    attention_g: str = parameter("16", 'feature-map sizes with attention in G, as text: "32", "32,64" or "none"', read=_read_sites)
    attention_d: str = parameter("16", 'feature-map sizes with attention in D, as text: "32", "32,64" or "none"', read=_read_sites)
    attention_variant: str = parameter(
        "official", "released code (keys and values pooled) or the formula of the paper", choices=("official", "paper")
    )
    attention_block: str = parameter(
        "attention", "what stands at the attention sites; residual: a block of about equal size", choices=("attention", "residual")
    )
    sn_g: bool = parameter(True, "spectral normalization in G")
    sn_d: bool = parameter(True, "spectral normalization in D")
    batch_norm_group: int = parameter(0, "images that batch norm in G averages over; 0: the whole batch", low=0)
    batch_norm_momentum: float = parameter(0.1, "weight of a new batch in the running statistics of batch norm", above=0, high=1)

    # optimisation
    lr_g: float | None = parameter(
        None, "learning rate of G; None: the preset's, else 1.5e-3 for twins and 3e-4 for other data", above=0, high=1
    )
    lr_d: float | None = parameter(
        None, "learning rate of D; None: the preset's, else 2.5e-3 for twins and 8e-4 for other data", above=0, high=1
    )
    beta1: float = parameter(0.0, "Adam's decay of the first moment", low=0, below=1)
    beta2: float = parameter(0.9, "Adam's decay of the second moment", low=0, below=1)
    d_steps: int = parameter(1, "D steps per G step", low=1)
    batch_size: int = parameter(32, "images per optimiser step, over all processes and accumulation steps", low=2)
    gradient_accumulation: int = parameter(1, "parts that a batch is worked through in, to save memory", low=1)
    steps: int = parameter(2000, "length of the training in G steps", low=1)
    ema_decay: float = parameter(0.995, "decay of the averaged generator; 0: no averaging", low=0, below=1)
    ema_start: int = parameter(0, "step at which averaging starts; until then the average is a copy", low=0)

    # how it runs
    seed: int = parameter(0, "of weights, noise, labels, data order and augmentation", low=0)
    num_processes: int = parameter(1, "processes: one per GPU, or CPU processes where there is no GPU", low=1)
    device: str = parameter("auto", "auto: a GPU where there is one", choices=("auto", "cpu", "cuda"))
    mixed_precision: str = parameter(
        "auto", "autocast; auto: bf16 where the hardware has it; fp16 needs a GPU", choices=("auto", "no", "bf16", "fp16")
    )
    dtype: str = parameter("float32", "of weights and arithmetic; float64 is for checks", choices=("float32", "float64"))

    # what it writes
    log_every: int = parameter(10, "steps between lines of history.jsonl", low=1)
    sample_every: int = parameter(100, "steps between sample grids and attention snapshots", low=1)
    checkpoint_every: int = parameter(500, "steps between checkpoints", low=1)
    keep_checkpoints: int = parameter(0, "newest checkpoints to keep; 0: all", low=0)
    evaluate_every: int | None = parameter(None, "steps between evaluations; 0: never; None: 250 for twins", low=0)
    evaluate_n: int | None = parameter(None, "images per evaluation; None: 500 for twins, else 5000", low=10)
    evaluate_extractor: str = parameter("auto", "inception, twins, or module:attribute; auto: twins for twins, else inception")
    resume: str = parameter("", '"run": go on with it; "run@step": fork a new run from its checkpoint', read=_read_resume)
    note: str = parameter("", "free text, stored with the run", longest=10_000)
    tags: str = parameter("", "words to find the run by, separated by commas", longest=1_000, read=read_list)

    def __post_init__(self):
        super().__post_init__()
        for name, value in self._data_defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        _check(self)

    # ------------------------------------------------------------------------------------------------- derived

    @property
    def sites_g(self) -> tuple[int, ...]:
        """Feature-map sizes of G that carry attention."""
        return _sites(self.attention_g)

    @property
    def sites_d(self) -> tuple[int, ...]:
        """Feature-map sizes of D that carry attention."""
        return _sites(self.attention_d)

    @property
    def maps_g(self) -> tuple[int, ...]:
        """Sizes of the feature maps that G's blocks put out: 8, 16, ..., image_size."""
        return tuple(2**k for k in range(3, int(math.log2(self.image_size)) + 1))

    @property
    def maps_d(self) -> tuple[int, ...]:
        """Sizes of the feature maps that D's down-sampling blocks put out: image_size / 2, ..., 4 by default."""
        count = self.d_downsamples or int(math.log2(self.image_size)) - 2
        return tuple(self.image_size // 2 ** (k + 1) for k in range(count))

    def channels_g(self, resolution: int) -> int:
        """Channels of G's feature map of this size."""
        return self.width * min(self.max_multiplier, self.image_size // resolution)

    def channels_d(self, resolution: int) -> int:
        """Channels of D's feature map of this size: D mirrors G, one block later."""
        return (self.width_d or self.width) * min(self.max_multiplier, self.image_size // (2 * resolution))

    @property
    def group_size(self) -> int:
        """Images that batch norm averages over."""
        return self.batch_norm_group or self.batch_size

    @property
    def _data_defaults(self) -> dict:
        return BUILT_IN_DATA.get(self.data, FOLDER_DATA)

    def changes(self, base: Config) -> dict:
        """Parameters (name: value) in which this differs from `base`, the run's identity and notes left out."""
        skip = {"preset", "run", "resume", "note", "tags"}
        mine, theirs = asdict(self), asdict(base)
        if self.data != base.data:
            skip |= {name for name, value in self._data_defaults.items() if mine[name] == value}
        return {k: v for k, v in mine.items() if k not in skip and v != theirs[k]}

    # ------------------------------------------------------------------------------------------------- making one

    @classmethod
    def from_parameters(cls, parameters: Mapping) -> Config:
        """Settings from notebook parameters or any mapping: `None` means the value of the preset.

        Values are coerced to the declared type of the parameter, whatever papermill or a shell made of them ("4e-4",
        1e3, "false"). With `resume`, the settings of that run are what `None` stands for; whether it can be gone on with like this is for
        `runs.require_startable` to say.

        Raises
        ------
        ParameterError
            For an unknown name (the message tells the nearest known one) or a value that does not fit.
        """
        cls.refuse_unknown(parameters)
        given = {name: cls.read(name, value) for name, value in parameters.items() if value is not None}
        if given.get("run") == DEMO.name:
            raise ParameterError(f"run={DEMO.name!r} is the run that ships with the package; choose another name")
        resume = given.get("resume", "")
        if not resume:
            return cls.preset(given.pop("preset", "twins32"), **given)
        name, step = split_resume(resume)
        base = read_config(run_folder("resume", name))
        if given.get("preset", base.preset) != base.preset:
            raise ParameterError(
                f"preset={given['preset']!r} does not go with resume={shown(resume)}, which has preset {base.preset!r}: leave preset out"
            )
        if given.get("data", base.data) != base.data:
            followed = {k: None for k, v in base._data_defaults.items() if k == "num_classes" or getattr(base, k) == v}
            given = followed | given  # what followed from the parent's data follows from this
        inherited = {} if step is None else dict(run="", note="", tags="")  # a fork is called by names of its own
        return base.replace(**inherited | given | dict(resume=resume))

    def replace(self, /, **changes) -> Config:
        """A copy with some parameters replaced."""
        self.refuse_unknown(changes)
        return replace(self, **changes)

    def to_json(self) -> str:
        """All settings as a JSON object."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str | bytes) -> Config:
        """The inverse of `to_json`. Settings left out are those of the preset.

        Raises
        ------
        ParameterError
            For text that is no JSON object of parameters and values that fit.
        """
        return _from_json(text, data_dir())


MAX_JSON = 1_000_000  # bytes of settings


@functools.lru_cache(maxsize=1024)
def _from_json(text: str | bytes, data_dir: Path) -> Config:  # lists of runs read the same text again and again
    def no_twins(pairs: list) -> dict:
        values = dict(pairs)
        if len(values) < len(pairs):
            names = [name for name, _ in pairs]
            raise ParameterError(f"the configuration has {shown(next(n for n in names if names.count(n) > 1))} twice")
        return values

    if len(text) > MAX_JSON:
        raise ParameterError(f"the configuration is larger than {MAX_JSON:,} bytes")
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text.removeprefix("\ufeff")
        values = json.loads(text, object_pairs_hook=no_twins)
    except ParameterError:
        raise
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, numbers of thousands of digits, nested without end
        raise ParameterError(f"the configuration is not valid JSON: {shown_text(str(error))}") from None
    if not isinstance(values, dict):
        raise ParameterError("the configuration must be a JSON object of parameters")
    Config.refuse_unknown(values)
    return Config.preset(values.pop("preset", "twins32"), **values)


def _preset(cls, name: str, /, **overrides) -> Config:
    """The settings called `name`, with some replaced.

    Raises
    ------
    ParameterError
        For an unknown preset or parameter, or a value that does not fit.
    """
    name = cls.read("preset", name)
    cls.refuse_unknown(overrides)
    return cls(**{"preset": name, **PRESETS[name], **overrides})


# Attached here because `preset` is a parameter too: on a Config it is that value, on the class this constructor.
Config.preset = classmethod(_preset)


def split_resume(resume: str) -> tuple[str, str | None]:
    """The run, and the step as text (None: no fork), of "run" or "run@step"; the run may be a path that contains "@"."""
    name, at, step = resume.rpartition("@")
    return (name, step) if at and os.sep not in step else (resume, None)


def read_config(folder: Path) -> Config:
    """The settings in a run's folder.

    Raises
    ------
    UnreadableError
        If its `config.json` is damaged or of another version.
    """
    path = folder / "config.json"
    try:
        with open_regular(path) as file:
            content = file.read(MAX_JSON + 1)
    except OSError as error:
        raise UnreadableError(path, error.strerror or str(error)) from None
    try:
        return Config.from_json(content)
    except ParameterError as error:
        raise UnreadableError(path, str(error)) from None


# ----------------------------------------------------------------------------------------------------- checking


def _sites(text: str) -> tuple[int, ...]:
    return () if text == "none" else tuple(int(part) for part in text.split(","))


def _check(c: Config) -> None:
    """Refuse values that do not go together."""
    if c.run and name_fault(c.run):
        raise ParameterError(f"run={shown(c.run)} cannot name a folder: {name_fault(c.run)}")
    if c.pairs > 1 and (c.data != "twins" or c.image_size < 16 * c.pairs):
        raise ParameterError(
            f"pairs={c.pairs} is for data='twins' with 16 pixels or more for each, not {c.data!r} at image_size={c.image_size}"
        )
    if c.d_downsamples > int(math.log2(c.image_size)) - 2:
        raise ParameterError(
            f"d_downsamples={c.d_downsamples} leaves less than a 4x4 map at image_size={c.image_size}; at most {int(math.log2(c.image_size)) - 2}"
        )
    for name, sites, maps in (("attention_g", c.sites_g, c.maps_g), ("attention_d", c.sites_d, c.maps_d)):
        wrong = [s for s in sites if s not in maps]
        if wrong:
            net = name[-1].upper()
            raise ParameterError(
                f"{name}={getattr(c, name)!r}: {net} has no feature map of size {wrong[0]} at image_size={c.image_size}; allowed: none, or a list from {', '.join(map(str, sorted(maps)))}"
            )
    parts = c.num_processes * c.gradient_accumulation
    if c.batch_size % parts:
        raise ParameterError(
            f"batch_size={c.batch_size} cannot be shared by num_processes={c.num_processes} times gradient_accumulation={c.gradient_accumulation}; use a multiple of {parts}"
        )
    micro, share = c.batch_size // c.gradient_accumulation, c.batch_size // parts
    if micro % c.group_size:
        cure = (
            f"a divisor of {micro}" if c.batch_norm_group else f"batch_norm_group, a divisor of {micro} (this changes what G learns from)"
        )
        raise ParameterError(
            f"batch_norm_group={c.batch_norm_group} ({c.group_size} images) does not fit into the {micro} images that are worked on at once "
            f"(batch_size={c.batch_size}, gradient_accumulation={c.gradient_accumulation}); set {cure}"
        )
    if c.group_size % share and share % c.group_size:
        raise ParameterError(
            f"batch_norm_group={c.batch_norm_group} and the {share} images of a process do not divide each other; choose powers of two"
        )
    if c.mixed_precision in ("bf16", "fp16") and c.dtype == "float64":
        raise ParameterError(f"mixed_precision={c.mixed_precision!r} does not go with dtype='float64'; use mixed_precision='no'")
    if c.mixed_precision == "fp16" and c.device == "cpu":
        raise ParameterError("mixed_precision='fp16' needs a GPU; on a CPU use 'bf16' or 'no'")
