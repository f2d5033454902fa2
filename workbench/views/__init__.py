"""What the notebooks call: for each a module with its parameters and views."""

from importlib import import_module

__all__ = ["across_runs", "attention", "compare", "settings", "train"]


def __getattr__(name: str):
    if name not in __all__:  # imported when first used: `settings` needs no torch
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f".{name}", __name__)
