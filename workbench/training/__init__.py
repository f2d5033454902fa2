"""Training: one D step, one G step, the loop around them, and starting it in a process of its own."""

from .loop import Networks, build, d_step, draw_noise, evaluate_twins, g_step, launch, load, make_accelerator, resolve, save, train

__all__ = [
    "Networks", "build", "d_step", "draw_noise", "evaluate_twins", "g_step", "launch", "load", "make_accelerator", "resolve", "save", "train",
]  # fmt: skip
