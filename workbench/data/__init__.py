"""Data sets: opening any of them, checking and packing it once, and the batches of every step."""

from .datasets import (
    DataError,
    Images,
    batch_indices,
    describe,
    has_class_folders,
    is_image_folder,
    is_split,
    loader,
    open_data,
    prepare,
    printable,
    short_sides,
    to_uint8,
    to_unit,
    training_split,
)

__all__ = [
    "DataError", "Images", "batch_indices", "describe", "has_class_folders", "is_image_folder", "is_split", "loader", "open_data", "prepare",
    "printable", "short_sides", "to_uint8", "to_unit", "training_split",
]  # fmt: skip
