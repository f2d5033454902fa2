"""The parameters of an evaluation, and the protocol, extractor and device that they select."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist

from ..gpus import on_cpu
from ..messages import ParameterError, short_repr
from ..metrics.extractors import Extractor, default_extractor, open_extractor
from ..metrics.protocols import PROTOCOLS, Protocol, protocol
from ..metrics.stream import CHUNK
from ..parameters import Parameters, parameter, whole
from ..readers import read_list, read_steps

SIZES = (32, 64, 128, 256)  # heights and widths of images


@dataclass(frozen=True)
class Evaluation(Parameters):
    """What to evaluate, and how. Raises a ParameterError for values that do not fit, or do not fit together."""

    run: str = parameter("", "name of the run", none="the newest")
    steps: str = parameter("last", "checkpoints to evaluate: last, all, or steps such as 500,1000", read=read_steps("last", "all"))
    samples: str = parameter("", "folder of images (folder/<class>/*, or packed) to score instead", none="the run's samples")
    data: str = parameter("", "real images to score against", none="those that the run was trained on")
    image_size: int | None = parameter(None, "with samples: height and width to resize to", choices=SIZES, none="their own")
    skip_unreadable: bool = parameter(False, "leave out images that cannot be read, instead of refusing")
    protocol: str = parameter("workbench", "evaluation protocol", choices=PROTOCOLS)
    n: int | None = parameter(None, "images to generate", low=2, none="the protocol's")
    extractor: str = parameter("auto", "inception, twins or module:attribute; auto: twins for twins, else inception")
    weights_file: str = parameter("", "file of Inception's weights", none="the one in the data folder")
    verify_weights: bool = parameter(True, "refuse other weights than Inception's; false: their scores are not called FID")
    scores: str = parameter("all", "any of is, fid, kid, intra_fid, precision_recall, density_coverage, accuracy, truth", read=read_list)
    weights: str | None = parameter(None, "weights of G; auto: EMA if available", choices=("ema", "raw", "auto"), none="the protocol's")
    statistics: str | None = parameter(
        None, "batch norm of G: saved, re-estimated, of each batch", choices=("running", "standing", "batch"), none="the protocol's"
    )
    truncation: float | None = parameter(None, "latents are truncated to [-truncation, truncation]; 0: not", low=0, none="the protocol's")
    reference_n: int | None = parameter(None, "real images; 0: all", low=0, none="the protocol's")
    seed: int = parameter(0, "seed of the latents", low=0)
    batch_size: int | None = parameter(None, "images per pass of G and the extractor", low=1, high=CHUNK, none="what suits the device")
    num_processes: int = parameter(1, "processes: one per GPU, or on the CPU", low=1)
    device: str = parameter("auto", "auto: a GPU if available", choices=("auto", "cpu", "cuda"))
    again: bool = parameter(False, "also evaluate what was evaluated before")

    def __post_init__(self):
        super().__post_init__()
        if self.samples and (self.run or self.steps != "last"):
            raise ParameterError(f"samples={short_repr(self.samples)} does not go with run and steps: score a folder, or a run")
        if self.samples and not self.data:
            raise ParameterError(f"samples={short_repr(self.samples)} needs data: the real images to score against")
        if self.image_size and not self.samples:
            raise ParameterError(f"image_size={self.image_size} goes with samples; a run has its own")

    def resolved_protocol(self, num_classes: int | None) -> Protocol:
        """The protocol, with the values that parameters replace."""
        base = protocol(self.protocol)
        statistics = self.statistics
        if self.truncation and statistics is None and base.statistics == "running":
            statistics = "standing"  # the saved ones are those of latents without truncation
        n = self.n or base.per_class * (num_classes or 0) or None
        return base.replace(n=n, weights=self.weights, statistics=statistics, truncation=self.truncation, reference_n=self.reference_n)

    def open_extractor(self, data: str, pairs: int = 1) -> Extractor:
        """The extractor of images with this many `pairs`; "auto" depends on the data set."""
        name: str | None = self.extractor
        if name == "auto":
            name = "inception" if self.weights_file else default_extractor(data)
        if name is None:
            raise ParameterError(f"extractor='auto': no network knows the images of {data!r}; give one, module:attribute")
        return open_extractor(name, self.weights_file, self.verify_weights, pairs)

    @property
    def torch_device(self) -> torch.device:
        """The device of this process."""
        if on_cpu(self.device):
            return torch.device("cpu")
        # LOCAL_RANK counts only if this package has started the launcher.
        return torch.device("cuda", whole(os.environ.get("LOCAL_RANK", "")) or 0 if dist.is_initialized() else 0)
