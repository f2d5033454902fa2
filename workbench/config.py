"""Settings: every parameter with its meaning and range, the presets, and reading parameters.

A `Config` is frozen and complete: it is what a run folder stores (`config.json`) and what models are rebuilt from.
This module needs the standard library only.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from .parameters import ParameterError, Parameters, nearest, parameter, read_list, read_text

# ----------------------------------------------------------------------------------------------------- places


def outputs_dir() -> Path:
    """The folder that holds the runs: `WORKBENCH_OUTPUTS`, or `outputs/` beside the package."""
    return _place("WORKBENCH_OUTPUTS", "outputs")


def data_dir() -> Path:
    """The folder that holds datasets: `WORKBENCH_DATA`, or `data/` beside the package."""
    return _place("WORKBENCH_DATA", "data")


def _place(variable: str, name: str) -> Path:
    # Never the working directory: papermill and Jupyter run notebooks from anywhere. An installed (not editable) package
    # has no checkout around it, and only then is the working directory the sensible place.
    checkout = Path(__file__).resolve().parent.parent
    default = checkout / name if (checkout / "pyproject.toml").exists() else Path.cwd() / name
    return Path(os.environ.get(variable) or default).expanduser().resolve()


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
    if text in BUILT_IN_DATA:
        return text
    path = Path(text).expanduser()
    return str((path if path.exists() or not (data_dir() / path).exists() else data_dir() / path).resolve())


def _read_sites(value, refuse) -> str:
    """Attention sites, given as 16, "16", "16,32", "[16, 32]", [16, 32] or "none", as canonical text."""
    items = value if isinstance(value, (list, tuple)) else str(value).strip().strip("[]()").split(",")
    items = [str(item).strip() for item in items if str(item).strip()]
    if not items or items == ["none"] or items == ["None"]:
        return "none"
    if not all(item.isdigit() for item in items):
        refuse('a list of feature-map sizes such as "32", "32,64" or "none"')
    return ",".join(str(s) for s in sorted({int(item) for item in items}))


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
    lr_g: float | None = parameter(None, "learning rate of G; None: 1.5e-3 for twins, else 3e-4", above=0, high=1)
    lr_d: float | None = parameter(None, "learning rate of D; None: 2.5e-3 for twins, else 8e-4", above=0, high=1)
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
    resume: str = parameter("", '"run": go on with it; "run@step": fork a new run from its checkpoint')
    note: str = parameter("", "free text, stored with the run")
    tags: str = parameter("", "words to find the run by, separated by commas", read=read_list)

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

    @property
    def derived_name(self) -> str:
        """The name of a run that was given none: what it starts from, and each parameter that differs from that."""
        base = Config.preset(self.preset)
        start = self.preset
        if self.resume:
            base = parent_config(self.resume)
            start = self.resume.replace("@", "-from")
        changes = [f"{k}={_slug(v)}" for k, v in self.changes(base).items()]
        return "-".join([start, *changes])[:150].rstrip("-.")

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
        1e3, "false"). With `resume`, the settings of that run are what `None` stands for.

        Raises
        ------
        ParameterError
            For an unknown name (the message tells the nearest known one) or a value that does not fit.
        """
        cls.refuse_unknown(parameters)
        given = {k: v for k, v in parameters.items() if v is not None}
        resume = str(given.get("resume", ""))
        if not resume:
            return cls.preset(str(given.pop("preset", "twins32")), **given)
        base = parent_config(resume)
        if given.get("preset", base.preset) != base.preset:
            raise ParameterError(
                f"preset={given['preset']!r} does not go with resume={resume!r}, which has preset {base.preset!r}: leave preset out"
            )
        if "data" in given and given["data"] != base.data:
            followed = {k: None for k, v in base._data_defaults.items() if k == "num_classes" or getattr(base, k) == v}
            given = followed | given  # what followed from the parent's data follows from this
        forking = "@" in resume
        config = base.replace(**{"run": "" if forking else base.run, **given, "resume": resume})
        if not forking:
            fixed = [k for k in config.changes(base) if k not in MAY_CHANGE_ON_RESUME]
            if fixed:
                raise ParameterError(
                    f"{fixed[0]}={getattr(config, fixed[0])!r} differs from the {getattr(base, fixed[0])!r} of the run that resume={resume!r} "
                    f"goes on with; to change it, fork the run: resume='{resume}@<step>'"
                )
            if config.run != base.run:
                raise ParameterError(
                    f"run={config.run!r} does not go with resume={resume!r}: a resumed run keeps its name; to make a new one, fork it: resume='{resume}@<step>'"
                )
        return config

    def replace(self, **changes) -> Config:
        """A copy with some parameters replaced."""
        self.refuse_unknown(changes)
        return replace(self, **changes)

    def to_json(self) -> str:
        """All settings as a JSON object."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Config:
        """The inverse of `to_json`. Settings left out are those of the preset."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ParameterError(f"the configuration is not valid JSON: {error}") from None
        if not isinstance(values, dict):
            raise ParameterError("the configuration must be a JSON object of parameters")
        return cls.preset(values.pop("preset", "twins32"), **values)


def _preset(cls, name: str, **overrides) -> Config:
    """The settings called `name`, with some replaced.

    Raises
    ------
    ParameterError
        For an unknown preset or parameter, or a value that does not fit.
    """
    if name not in PRESETS:
        raise ParameterError(f"preset={name!r} is unknown; {nearest(str(name), PRESETS)}one of: {', '.join(PRESETS)}")
    cls.refuse_unknown(overrides)
    return cls(**{"preset": name, **PRESETS[name], **overrides})


# Attached here because `preset` is a parameter too: on a Config it is that value, on the class this constructor.
Config.preset = classmethod(_preset)

# What may differ when a run goes on: nothing that its weights depend on, but for the length.
MAY_CHANGE_ON_RESUME = {
    "steps",
    "log_every",
    "sample_every",
    "checkpoint_every",
    "keep_checkpoints",
    "evaluate_every",
    "evaluate_n",
    "evaluate_extractor",
    "num_processes",
    "device",
}


def parent_config(resume: str) -> Config:
    """The settings of the run that `resume` ("run" or "run@step") names.

    Raises
    ------
    ParameterError
        If there is no such run.
    """
    name = resume.partition("@")[0]
    path = outputs_dir() / name / "config.json"
    if not path.exists():
        known = sorted(p.parent.name for p in outputs_dir().glob("*/config.json"))
        raise ParameterError(
            f"resume={resume!r}: there is no run {name!r} in {outputs_dir()}; {nearest(name, known)}{len(known)} runs are there"
        )
    return Config.from_json(path.read_text())


# ----------------------------------------------------------------------------------------------------- checking


def _sites(text: str) -> tuple[int, ...]:
    return () if text == "none" else tuple(int(part) for part in text.split(","))


def _check(c: Config) -> None:
    """Refuse values that do not go together."""
    if c.run and ("@" in c.run or c.run != Path(c.run).name or c.run.startswith(".")):
        raise ParameterError(f"run={c.run!r} cannot name a folder; use a name without '/' and '@' that does not start with '.'")
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


def _slug(value) -> str:
    """A value as part of a folder name: paths give their last part, everything odd becomes '_'."""
    text = str(value)
    if "/" in text or os.sep in text:
        text = Path(text).name or "root"
    return "".join(ch if ch.isalnum() or ch in "._+-" else "_" for ch in text)
