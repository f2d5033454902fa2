"""A research workbench for SAGAN, the self-attention GAN of Zhang, Goodfellow, Metaxas and Odena (2019)."""

import os as _os

if _os.name != "posix":  # locks, signals and process groups are those of POSIX
    raise ImportError("the SAGAN workbench runs on Linux and macOS; on Windows, use it in WSL")

from .config import Config
from .messages import ParameterError, WorkbenchError, blaming_variables, one_line_errors
from .notebook import notebook_parameters
from .runs import Run, list_runs

_LAZY = {  # what needs torch, accelerate, Jupyter or plotting is imported when it is first used
    "Discriminator": "model", "Generator": "model", "SelfAttention": "model",
    "train": "training", "launch": "training", "Dashboard": "widgets.dashboard", "AttentionInspector": "widgets.inspector",
    "interactive": "progress", "AttentionView": "views.attention", "Comparison": "views.compare", "Ablation": "views.ablation",
    "film": "widgets.film", "live": "widgets.outputs", "reveal": "widgets.outputs", "check": "views.settings", "open_data": "data", "Evaluation": "evaluation", "evaluate": "evaluation", "EvaluationView": "views.evaluate",
    "Tour": "views.tour", "export_page": "widgets.inspector.living", "publish": "publishing", "open_checkpoint": "foreign", "sweep": "studies.sweep",
}  # fmt: skip
_MODULES = {
    "losses": "model.losses", "sampling": "model.sampling", "twins": "data.twins",
    **{name: name for name in ("attention", "data", "evaluation", "figures", "metrics", "studies", "training", "views")},
}  # fmt: skip

one_line_errors()

__all__ = [
    "Config", "ParameterError", "Run", "WorkbenchError", "list_runs", "notebook_parameters", *_LAZY, *_MODULES,
]  # fmt: skip


def __getattr__(name: str):
    from importlib import import_module

    with blaming_variables():
        if name in _LAZY:
            return getattr(import_module(f".{_LAZY[name]}", __name__), name)
        if name in _MODULES:
            return import_module(f".{_MODULES[name]}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
