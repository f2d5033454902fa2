"""The feature extractor for the data set `twins`: a small frozen classifier, because Inception says little about these images.

It was trained on images of one pair. Of images with several it takes a crop of each pair, because a whole one is recognised by chance only.

`python -m workbench.metrics.twins_training` made its weights, which are part of the package. The file's name has their hash, because only
scores of the same extractor can be compared. They are never called FID or Inception score.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch.nn.functional as F
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from ..data.twins import CLASSES, crops
from ..messages import WorkbenchError

SIZE = 32  # height and width of the network's input
WEIGHTS = Path(__file__).with_name("twins-3d2861b8.safetensors")


class TwinsClassifier(nn.Module):
    """A plain convolutional network, without normalisation, so that images do not influence each other.

    Trained on the class alone it would ignore hue and position, so its features, without activation, must encode both halves of the image
    (see `twins_training`).

    Parameters
    ----------
    pairs
        k, the glyph pairs of an image, each of which is cropped.
    """

    features = 64
    classes = CLASSES  # of the logits

    def __init__(self, pairs: int = 1):
        super().__init__()
        self.pairs = pairs
        self.body = nn.Sequential(
            nn.Conv2d(3, 24, 5, stride=2, padding=2),  # (B, 24, 16, 16)
            nn.SiLU(inplace=True),
            nn.Conv2d(24, 24, 3, padding=1),  # angles are read from fine detail
            nn.SiLU(inplace=True),
            nn.Conv2d(24, 48, 3, stride=2, padding=1),  # (B, 48, 8, 8)
            nn.SiLU(inplace=True),
            nn.Conv2d(48, 64, 3, padding=1),  # (B, 64, 8, 8)
            nn.SiLU(inplace=True),
            nn.Conv2d(64, 32, 3, stride=2, padding=1),  # (B, 32, 4, 4)
            nn.SiLU(inplace=True),
            nn.Flatten(),  # no pooling: height and half matter
            nn.Linear(32 * 4 * 4, self.features),
        )
        self.logits = nn.Linear(self.features, len(CLASSES))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B * k, 64) and logits (B * k, 6) of the crops of images (B, 3, S, S), floats in [0, 255], image by image.

        S is a multiple of 32. Crops (3, S / k, S / k) are averaged down to 32 pixels, or enlarged to them. A WorkbenchError for another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3] or images.shape[3] % SIZE:
            raise WorkbenchError(
                f"images of shape {tuple(images.shape)} do not fit the classifier of twins; give (B, 3, S, S), S a multiple of {SIZE}"
            )
        images = crops(images, self.pairs)
        if images.shape[3] < SIZE:
            images = F.interpolate(images, (SIZE, SIZE), mode="bilinear", align_corners=False)
        if images.shape[3] > SIZE:
            images = F.avg_pool2d(images, images.shape[3] // SIZE)
        features = self.body(images / 127.5 - 1)
        return features, self.logits(features)


def load(path: Path = WEIGHTS, pairs: int = 1) -> TwinsClassifier:
    """The frozen classifier of images with this many pairs, on the CPU; a WorkbenchError if its weights are missing, or do not have the hash in the file's name."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WorkbenchError(
            f"{path}, the weights of the classifier of twins, cannot be read ({error.strerror}); install the package again"
        ) from None
    if path.name != weights_name(content):
        raise WorkbenchError(
            f"{path}, the weights of the classifier of twins, is damaged: its hash does not fit; install the package again"
        )
    net = TwinsClassifier(pairs)
    net.load_state_dict(load_tensors(content))
    return net.eval().requires_grad_(False)


def weights_name(content: bytes) -> str:
    """The name of a weights file, with the hash of its content."""
    return f"twins-{hashlib.sha256(content).hexdigest()[:8]}.safetensors"
