"""A research workbench for SAGAN, the self-attention GAN of Zhang, Goodfellow, Metaxas and Odena (2019)."""

import os as _os

if _os.name != "posix":  # locks, signals and process groups are those of POSIX
    raise ImportError("the SAGAN workbench runs on Linux and macOS; on Windows, use it in WSL")

from . import losses
from .config import Config
from .model import Discriminator, Generator, SelfAttention
from .parameters import ParameterError, WorkbenchError, notebook_parameters
from .runs import Run, list_runs

_LAZY = {  # what needs accelerate, Jupyter or plotting is imported when it is first used
    "train": "training", "launch": "training", "Dashboard": "widgets.dashboard", "AttentionInspector": "widgets.inspector",
    "interactive": "progress", "AttentionView": "inspection", "Comparison": "comparison", "Ablation": "ablation",
    "open_data": "data", "Evaluation": "evaluation", "evaluate": "evaluation",
}  # fmt: skip
_MODULES = (
    "ablation", "attention", "augment", "comparison", "data", "ema", "evaluation", "experiments", "figures", "groups",
    "inspection", "metrics", "runs", "sampling", "training", "twins",
)  # fmt: skip

__all__ = [
    "Config", "Discriminator", "Generator", "ParameterError", "Run", "SelfAttention", "WorkbenchError", "list_runs", "losses",
    "notebook_parameters", *_LAZY, *_MODULES,
]  # fmt: skip


def __getattr__(name: str):
    from importlib import import_module

    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
