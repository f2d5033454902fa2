"""The Inception network of 2015-12-05, and the file of its weights.

torch-fidelity's network agrees with the TensorFlow graph. Here its batch norm is folded into the convolutions, its layout is
channels-last, and the resize of TensorFlow 1 is two matrix products.
"""

from __future__ import annotations

import io
import os
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from ..files import reading
from ..messages import WorkbenchError, one_line, short_repr
from ..paths import data_dir
from ..tensors import digest

FILE = "weights-inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d"  # of the reference weights, first digits
SIZE = 299  # height and width of the images inside the network
LARGEST_FILE = 2**30  # bytes of a weights file; Inception's has 91 MB


def load(weights_file: str | Path | None = None, verify: bool = True) -> tuple[Inception, str]:
    """The network, and the SHA-256 of its weights; see `extractors.inception`."""
    path = Path(os.path.expanduser(weights_file)) if weights_file else _downloaded()
    if not os.path.isfile(path):
        reason = "it is not a regular file" if os.path.exists(path) else "there is no such file"
        raise WorkbenchError(f"weights_file={short_repr(str(path), 200)}: {reason}; leave it out, or give the path of {FILE}")
    with reading(path):
        size = path.stat().st_size
    if size > LARGEST_FILE:
        raise WorkbenchError(f"{path} has {size / 1e9:,.1f} GB, and the weights of Inception 0.09 GB: give the path of {FILE}")
    sha256 = digest(path)
    if verify and not sha256.startswith(SHA256):
        raise WorkbenchError(
            f"{path} is not the reference Inception: its SHA-256 begins with {sha256[:8]}, not with {SHA256}; get {FILE}, "
            "or set verify_weights=False for scores under another name"
        )
    weights = _load_weights(path)
    try:
        return Inception(weights), sha256
    except Exception as error:  # a file can hold tensors of any name, shape, type and layout
        raise WorkbenchError(f"{path} holds the weights of another network: {one_line(error)}") from None


class Inception(nn.Module):
    """Images (B, 3, H, W) in [0, 255] -> features (B, 2048), logits without bias (B, 1008); their bias is `logit_bias` (1008,)."""

    def __init__(self, weights: dict[str, Tensor]):
        super().__init__()
        from torch.nn.utils.fusion import fuse_conv_bn_eval
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        # The constructor unpickles its file, which can run code, so it gets a copy of the checked tensors.
        copy = io.BytesIO()
        torch.save(weights, copy)
        copy.seek(0)
        network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=copy).double()
        for block in network.modules():
            if hasattr(block, "bn"):
                block.conv, block.bn = fuse_conv_bn_eval(block.conv, block.bn), nn.Identity()
        network.float()
        self.blocks = nn.Sequential(*[block for name, block in network.named_children() if name != "fc"])
        self.register_buffer("to_logits", network.fc.weight.detach().clone())
        self.register_buffer("logit_bias", network.fc.bias.detach().clone())
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rows, columns = (resize_matrix(side, SIZE).to(x.device) for side in x.shape[2:])
        x = rows @ x.contiguous() @ columns.T  # (B, 3, 299, 299)
        x = ((x - 128) / 128).contiguous(memory_format=torch.channels_last)
        features = self.blocks(x).flatten(1)
        return features, features @ self.to_logits.T


@lru_cache(maxsize=8)
def resize_matrix(size: int, to: int) -> Tensor:
    """(to, size): bilinear resizing of one axis as TensorFlow 1 does it, without antialiasing and with corners not aligned.

    Row i mixes the pixels floor(s) and floor(s) + 1 at s = i * size / to, computed in float32 as there.
    """
    s = torch.arange(to, dtype=torch.float32) * torch.tensor(size / to, dtype=torch.float32)
    low = s.long()
    matrix = torch.zeros(to, size)
    matrix[torch.arange(to), low] = 1 - (s - low)
    matrix[torch.arange(to), (low + 1).clamp(max=size - 1)] += s - low
    return matrix


def _downloaded() -> Path:
    """The reference weights in the data folder, downloaded if they are absent."""
    path = data_dir() / FILE
    if not os.path.lexists(path):
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix=SHA256)  # written beside, then renamed
        except (OSError, RuntimeError) as error:
            raise WorkbenchError(
                f"the Inception weights are missing and could not be downloaded ({error}): put {FILE} into {data_dir()}, or give "
                f"its path as weights_file; it is at {URL_INCEPTION_V3}"
            ) from None
    return path


def _load_weights(path: Path) -> dict[str, Tensor]:
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # any other file can raise anything
        weights = None
    if not isinstance(weights, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items()):
        raise WorkbenchError(f"{path} is not a state_dict: expected a file of named tensors and nothing else, as torch.save writes it")
    return weights
