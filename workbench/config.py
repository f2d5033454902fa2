"""Settings: every parameter with its meaning and range, and reading them from presets, parameters and `config.json`.

A `Config` is frozen and complete: a run folder stores it (`config.json`), and models are rebuilt from it. `runs.resume` has the rules of
resuming and forking.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from .files import UnreadableError, open_regular, reading
from .messages import ParameterError, short_repr, short_text
from .parameters import Parameters, parameter, read_text, whole
from .paths import DEMO, data_dir, explicit_path, name_fault, outputs_dir, run_folder
from .presets import BUILT_IN_DATA, DEFAULT, FOLDER_DATA, HUGGING_FACE, PRESETS
from .readers import read_list, read_sites, read_trackers, split_step
from .synonyms import SYNONYMS


def _read_data(value, refuse) -> str:
    """A built-in name, or the absolute path of a folder; a relative path that does not exist is looked up in the data folder.

    A data set of Hugging Face keeps its name, or has an absolute path if it is there.
    """
    text = read_text(value, refuse)
    if text.strip() in BUILT_IN_DATA:
        return text.strip()
    if not text.strip():
        refuse(f"{', '.join(BUILT_IN_DATA)} or a folder")
    if text.strip().startswith(HUGGING_FACE):
        name, mark, options = text.strip().removeprefix(HUGGING_FACE).partition("?")
        path = _read_data(name, refuse) if name.strip() else refuse(f"{HUGGING_FACE}<name or path>")
        return HUGGING_FACE + (path if os.path.exists(path) else name) + mark + options
    try:
        path = Path(os.path.expanduser(text))
        in_data_folder = not os.path.exists(path) and os.path.exists(data_dir() / path)
        return os.path.realpath(data_dir() / path if in_data_folder else path)
    except (OSError, ValueError):
        return refuse("the path of a folder")


def _read_resume(value, refuse) -> str:
    """ "run" or "run@step"; an explicit path becomes absolute, or a bare name if it lies in the outputs folder."""
    text = read_text(value, refuse).strip()
    name, step = split_step(text)
    try:
        path = explicit_path(value if isinstance(value, os.PathLike) and step is None else name)
        folder = path and Path(os.path.realpath(path))
    except (OSError, ValueError):
        refuse("the name or path of a run")
    if folder:
        name = folder.name if folder in (outputs_dir() / folder.name, DEMO) else str(folder)
    return name if step is None else f"{name}@{step if whole(step) is None else whole(step)}"


@dataclass(frozen=True)
class Config(Parameters):
    """Every setting of a run. The defaults are those of the preset `twins32`.

    Make one with `Config.preset(name, **overrides)` or `Config.from_parameters(mapping)`; `help` for each parameter:
    `python -m workbench parameters`.

    Raises
    ------
    ParameterError
        If a value is out of range or two values do not go together; the message names parameter, value and fix.
    """

    first = (
        "preset", "run", "data", "image_size", "steps", "batch_size", "width", "attention_g", "attention_d", "lr_g", "lr_d", "seed", "resume",
    )  # fmt: skip
    none = f"the preset's value; in brackets: that of {DEFAULT}"
    synonyms = SYNONYMS

    width: int = parameter(16, "channels of G at full resolution; at r: width * min(max_multiplier, size / r)", low=8, section="Model")
    width_d: int | None = parameter(None, "channels of D at full resolution", low=1, none="as G")
    max_multiplier: int = parameter(16, "limit on how much wider small maps are; 1: the same width everywhere", low=1)
    d_downsamples: int | None = parameter(None, "down-sampling blocks of D", low=1, none="down to 4x4")
    d_flat_blocks: int = parameter(1, "blocks of D after the down-sampling ones, at the last resolution", low=0)
    d_flat_channels: int | None = parameter(None, "channels of those blocks", low=1, none="as the last map")
    d_narrow: bool = parameter(False, "channels between the convolutions of a block of D: those of its input, not of its output")
    d_relu_inplace: bool = parameter(False, "the ReLU before a block of D also acts on its shortcut, as one in place does")
    z_dim: int = parameter(32, "dimension of the latent vector z", low=1)
    attention_g: str = parameter("16", 'feature-map sizes with attention in G: "32", "32,64" or "none"', read=read_sites)
    attention_d: str = parameter("16", 'feature-map sizes with attention in D: "32", "32,64" or "none"', read=read_sites)
    attention_variant: str = parameter("official", "released code (pools keys and values) or the paper", choices=("official", "paper"))
    attention_block: str = parameter("attention", "block at the attention sites, of about equal size", choices=("attention", "residual"))
    sn_g: bool = parameter(True, "spectral normalization in G")
    sn_d: bool = parameter(True, "spectral normalization in D")
    sn_gains: bool = parameter(False, "spectral normalization of each class's gains and biases in G's batch norm")
    batch_norm_group: int | None = parameter(None, "images that batch norm in G averages over", low=1, none="the whole batch")
    batch_norm_momentum: float = parameter(0.1, "weight of a new batch in the running statistics of batch norm", above=0, high=1)
    batch_norm_eps: float = parameter(1e-5, "added to the variance in batch norm", above=0, high=1)
    init: str = parameter("xavier", "initial weights: Xavier-uniform or orthogonal", choices=("xavier", "orthogonal"))

    data: str = parameter(
        "twins",
        f"{', '.join(BUILT_IN_DATA)}, a folder or {HUGGING_FACE}<name or path>",
        read=_read_data,
        section="Data",
    )
    image_size: int = parameter(32, "height and width of the images in pixels", choices=(32, 64, 128, 256))
    num_classes: int | None = parameter(None, "classes to condition on; 0: unconditional", low=0, none="as many as the data has")
    pairs: int = parameter(1, "glyph pairs per image (twins); more is harder", choices=(1, 2, 4))
    tiles: int = parameter(4, "tiles on each side of an image (binding)", choices=(2, 4, 8))
    patterns: int | None = parameter(None, "size of the vocabulary (binding)", low=1, high=1000, none="tiles^2 / 2")
    skip_unreadable: bool = parameter(False, "leave unreadable image files out instead of refusing to start")
    augment: str = parameter(
        "none", "augmentation of real images (flip), or of real and fake (diffaug)", choices=("none", "flip", "diffaug")
    )

    lr_g: float = parameter(None, "learning rate of G", above=0, high=1, none="2e-3 for twins, else 3e-4", section="Optimisation")
    lr_d: float = parameter(None, "learning rate of D", above=0, high=1, none="2.5e-3 for twins, else 8e-4")
    beta1: float = parameter(0.0, "Adam's decay of the first moment", low=0, below=1)
    beta2: float = parameter(0.9, "Adam's decay of the second moment", low=0, below=1)
    d_steps: int = parameter(1, "D steps per G step", low=1)
    batch_size: int = parameter(24, "images per optimiser step, over all processes", low=2)
    gradient_accumulation: int = parameter(1, "micro-batches per batch, to save memory", low=1)
    steps: int = parameter(1900, "G steps", low=1)
    ema_decay: float = parameter(0.995, "EMA of G's weights: decay per step; 0: no EMA", low=0, below=1)
    ema_start: int = parameter(0, "step at which the EMA starts; until then it is a copy of G", low=0)
    max_hours: float | None = parameter(None, "hours after which a training saves and stops, to be resumed", above=0, none="no limit")

    preset: str = parameter(DEFAULT, "settings to start from", choices=PRESETS, section="Run")
    run: str | None = parameter(None, "name of the run folder", none="made from the preset and the changes")
    resume: str | None = parameter(None, '"run": resume it; "run@step": fork it from that checkpoint', read=_read_resume, none="a new run")
    seed: int = parameter(0, "seed of weights, noise, labels, data order and augmentation", low=0)
    num_processes: int = parameter(1, "processes: one per GPU, or on the CPU", low=1)
    device: str = parameter("auto", "auto: a GPU if available", choices=("auto", "cpu", "cuda"))
    mixed_precision: str = parameter(
        "auto", "autocast; auto: bf16 where it is faster; fp16 needs a GPU", choices=("auto", "no", "bf16", "fp16")
    )
    dtype: str = parameter("float32", "type of weights and arithmetic; float64 is for checks", choices=("float32", "float64"))
    note: str | None = parameter(None, "free text, stored with the run", longest=10_000, none="none")
    tags: str | None = parameter(None, "words to find the run by, separated by commas", longest=1_000, read=read_list, none="none")

    log_every: int = parameter(10, "steps between lines of history.jsonl", low=1, section="Logging")
    sample_every: int = parameter(100, "steps between sample grids and attention snapshots", low=1)
    checkpoint_every: int = parameter(500, "steps between checkpoints", low=1)
    keep_checkpoints: int | None = parameter(None, "newest checkpoints to keep", low=1, none="all")
    evaluate_every: int = parameter(None, "steps between evaluations; 0: never", low=0, none="250 for twins, else 0")
    evaluate_n: int = parameter(None, "images per evaluation", low=10, none="500 for twins, else 5000")
    evaluate_extractor: str = parameter("auto", "inception, twins or module:attribute; auto: twins for twins, else inception")
    log_with: str = parameter("none", "trackers beside the run folder: tensorboard, wandb, or both", read=read_trackers)

    def __post_init__(self):
        super().__post_init__()
        for name, value in self._data_defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        _check(self)

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
        """Sizes of the feature maps that G's blocks output: 8, 16, ..., image_size."""
        return tuple(2**k for k in range(3, int(math.log2(self.image_size)) + 1))

    @property
    def maps_d(self) -> tuple[int, ...]:
        """Sizes of the feature maps that D's down-sampling blocks output: image_size / 2, ..., 4 by default."""
        count = self.d_downsamples or int(math.log2(self.image_size)) - 2
        return tuple(self.image_size // 2 ** (k + 1) for k in range(count))

    def channels_g(self, resolution: int) -> int:
        """Channels of G's feature map of this size."""
        return self.width * min(self.max_multiplier, self.image_size // resolution)

    def channels_d(self, resolution: int) -> int:
        """Channels of D's feature map of this size: D mirrors G, one block later."""
        return (self.width_d or self.width) * min(self.max_multiplier, self.image_size // (2 * resolution))

    @property
    def last_channels_d(self) -> int:
        """Channels of D's last feature map: those of the flat blocks, if it has any."""
        return (self.d_flat_channels if self.d_flat_blocks else None) or self.channels_d(self.maps_d[-1])

    @property
    def group_size(self) -> int:
        """Images that batch norm averages over."""
        return self.batch_norm_group or self.batch_size

    @property
    def _data_defaults(self) -> dict:
        return BUILT_IN_DATA.get(self.data, FOLDER_DATA)

    def changes(self, base: Config) -> dict:
        """Parameters (name: value) in which this differs from `base`, without the run's identity and notes."""
        skip = {"preset", "run", "resume", "note", "tags", "log_with", "max_hours"}
        values, base_values = asdict(self), asdict(base)
        if self.data != base.data:
            skip |= {name for name, value in self._data_defaults.items() if values[name] == value}
        return {name: value for name, value in values.items() if name not in skip and value != base_values[name]}

    @classmethod
    def from_parameters(cls, parameters: Mapping) -> Config:
        """As `Parameters.from_parameters`; None means the value of the preset, or of the run that `resume` names.

        `runs.require_startable` checks whether the run can be resumed with these values.
        """
        cls.refuse_unknown(parameters)
        values = {name: cls.read(name, value) for name, value in parameters.items() if value is not None}
        if values.get("run") == DEMO.name:
            raise ParameterError(f"run={DEMO.name!r} is the run that ships with the package; choose another name")
        resume = values.get("resume")
        if not resume:
            return cls.preset(values.pop("preset", DEFAULT), **values)
        name, step = split_step(resume)
        base = read_config(run_folder("resume", name))
        if values.get("preset", base.preset) != base.preset:
            raise ParameterError(
                f"preset={values['preset']!r} does not go with resume={short_repr(resume)}, which has preset {base.preset!r}: leave preset out"
            )
        if step is not None and values.get("data", base.data) != base.data:  # defaults of the parent's data give way to those of this data
            values = {k: None for k, v in base._data_defaults.items() if k == "num_classes" or getattr(base, k) == v} | values
        identity = {} if step is None else dict(run=None, note=None, tags=None)  # a fork does not inherit them
        return base.replace(**identity | values | dict(resume=resume))

    def replace(self, /, **changes) -> Config:
        """A copy with other values of some parameters."""
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
            If the text is not a JSON object of known parameters with values that fit.
        """
        return _from_json(text, data_dir())


MAX_JSON = 1_000_000  # bytes of settings


@functools.lru_cache(maxsize=1024)
def _from_json(text: str | bytes, data_dir: Path) -> Config:  # a list of runs reads the same text repeatedly
    def refuse_duplicates(pairs: list) -> dict:
        values = dict(pairs)
        if len(values) < len(pairs):
            names = [name for name, _ in pairs]
            raise ParameterError(f"the configuration has {short_repr(next(n for n in names if names.count(n) > 1))} twice")
        return values

    if len(text) > MAX_JSON:
        raise ParameterError(f"the configuration is larger than {MAX_JSON:,} bytes")
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text.removeprefix("\ufeff")
        values = json.loads(text, object_pairs_hook=refuse_duplicates)
    except ParameterError:
        raise
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, numbers of thousands of digits, nested without end
        raise ParameterError(f"the configuration is not valid JSON: {short_text(str(error))}") from None
    if not isinstance(values, dict):
        raise ParameterError("the configuration must be a JSON object of parameters")
    Config.refuse_unknown(values)
    return Config.preset(values.pop("preset", DEFAULT), **values)


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


# Attached here because `preset` is a parameter too: an instance has its value, the class this constructor.
Config.preset = classmethod(_preset)  # type: ignore[assignment]


def read_config(folder: Path) -> Config:
    """The settings in a run's folder; an UnreadableError if its `config.json` is damaged or from another version."""
    path = folder / "config.json"
    with reading(path), open_regular(path) as file:
        content = file.read(MAX_JSON + 1)
    try:
        return Config.from_json(content)
    except ParameterError as error:
        raise UnreadableError(path, str(error)) from None


def _sites(text: str) -> tuple[int, ...]:
    return () if text == "none" else tuple(int(part) for part in text.split(","))


def _check(c: Config) -> None:
    """Refuse combinations of values that cannot work."""
    if c.run and name_fault(c.run):
        raise ParameterError(f"run={short_repr(c.run)} cannot name a folder: {name_fault(c.run)}")
    if c.pairs > 1 and (c.data != "twins" or c.image_size < 16 * c.pairs):
        raise ParameterError(
            f"pairs={c.pairs} is for data='twins' with 16 pixels or more for each, not {c.data!r} at image_size={c.image_size}"
        )
    pairs = c.tiles**2 // 2
    if c.data in ("binding", "binding-near") and (c.image_size < 8 * c.tiles or (c.patterns or pairs) < pairs):
        raise ParameterError(
            f"tiles={c.tiles} needs image_size={8 * c.tiles} or more, and patterns={pairs} or more; given: {c.image_size} and {c.patterns}"
        )
    if c.data not in ("binding", "binding-near") and (c.tiles != 4 or c.patterns):
        raise ParameterError(f"tiles={c.tiles} and patterns={c.patterns} are for data='binding' or 'binding-near', not {c.data!r}")
    most = int(math.log2(c.image_size)) - 2
    if c.d_downsamples and c.d_downsamples > most:
        raise ParameterError(f"d_downsamples={c.d_downsamples} leaves less than a 4x4 map at image_size={c.image_size}; at most {most}")
    for name, sites, maps in (("attention_g", c.sites_g, c.maps_g), ("attention_d", c.sites_d, c.maps_d)):
        missing = [site for site in sites if site not in maps]
        if missing:
            raise ParameterError(
                f"{name}={getattr(c, name)!r}: {name[-1].upper()} has no feature map of size {missing[0]} at image_size={c.image_size}; "
                f"allowed: none, or a list from {', '.join(map(str, sorted(maps)))}"
            )
    parts = c.num_processes * c.gradient_accumulation
    if c.batch_size % parts:
        raise ParameterError(
            f"batch_size={c.batch_size} cannot be shared by num_processes={c.num_processes} times "
            f"gradient_accumulation={c.gradient_accumulation}; use a multiple of {parts}"
        )
    micro, share = c.batch_size // c.gradient_accumulation, c.batch_size // parts
    if micro % c.group_size:
        fix = f"a divisor of {micro}" if c.batch_norm_group else f"batch_norm_group, a divisor of {micro} (this changes what G learns from)"
        raise ParameterError(
            f"batch_norm_group={c.batch_norm_group} ({c.group_size} images) does not divide the micro-batch of {micro} images "
            f"(batch_size={c.batch_size}, gradient_accumulation={c.gradient_accumulation}); set {fix}"
        )
    if c.group_size % share and share % c.group_size:
        raise ParameterError(
            f"batch_norm_group={c.batch_norm_group} and the {share} images of a process do not divide each other; choose powers of two"
        )
    if c.mixed_precision in ("bf16", "fp16") and c.dtype == "float64":
        raise ParameterError(f"mixed_precision={c.mixed_precision!r} does not go with dtype='float64'; use mixed_precision='no'")
    if c.mixed_precision == "fp16" and c.device == "cpu":
        raise ParameterError("mixed_precision='fp16' needs a GPU; on a CPU use 'bf16' or 'no'")
