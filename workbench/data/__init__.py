"""Data sets: opened, checked and packed once, then served in batches.

`datasets` opens them, `sources` lists the images of each source, `folders`, `layout` and `splits` check folders, `hugging_face` reads
that library's data sets, `decode` reads image files, `packing`, `packed`, `stored` and `cache` store them, `batches` serves them, `augment` augments them on the device; `twins` and `binding` draw images (`drawing`: what both share).
"""

from .batches import batch_indices, loader, to_uint8, to_unit
from .datasets import describe, has_class_folders, is_image_folder, open_data, prepare, short_sides
from .errors import DataError, printable
from .layout import training_split
from .packed import Images
from .splits import is_split

__all__ = [
    "DataError", "Images", "batch_indices", "describe", "has_class_folders", "is_image_folder", "is_split", "loader", "open_data", "prepare",
    "printable", "short_sides", "to_uint8", "to_unit", "training_split",
]  # fmt: skip
