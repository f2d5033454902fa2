"""Feature extractors: networks that map images to the features and logits from which scores are computed.

An extractor takes images (B, 3, H, W) of any size with pixels in [0, 255], uint8 or float32, and gives features (B, d) and class
logits (B, K), or those of several crops of each image. Only `inception()` with the reference weights gives FID, IS and KID; scores of other extractors carry their name and hash.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ..messages import ParameterError, WorkbenchError, short_repr
from . import inception_v3, twins_classifier


class Extractor:
    """A frozen network as a feature extractor, in float32.

    Parameters
    ----------
    network
        Maps images (B, 3, H, W), float32 in [0, 255], to features (B, d), or to a pair of features and logits (B, K).
    name
        Part of the names of its scores, by default the name of its class in lower case.
    digest
        SHA-256 of its weights, by default computed from them.
    crops
        c: the network crops each image c times, and gives features (B * c, d) and logits (B * c, K), image by image.

    Attributes
    ----------
    reference : bool
        Whether this is the reference Inception, which defines IS, FID and KID.
    classes : list of str or None
        The classes of its logits, in order: the attribute `classes` of the network; None if it has none.
    """

    def __init__(self, network: nn.Module, name: str | None = None, digest: str | None = None, reference: bool = False, crops: int = 1):
        self.network = network.eval().requires_grad_(False)
        self.name = name or type(network).__name__.lower()
        self.digest = digest or _digest(network)
        self.reference, self.crops = reference, crops
        classes = getattr(network, "classes", None)
        self.classes = [str(name) for name in classes] if isinstance(classes, list | tuple) else None
        self._widths: tuple[int, int] | None = None

    def __repr__(self) -> str:
        return f"Extractor({self.label})"

    @property
    def label(self) -> str:
        """Name and hash, as in the names of its scores."""
        return f"{self.name}@{self.digest[:8]}"

    def to(self, device: torch.device | str) -> Extractor:
        self.network.to(device)
        return self

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B * c, d) and logits (B * c, K), float32, of images (B, 3, H, W) in [0, 255]; K is 0 if the network has no logits.

        Raises
        ------
        WorkbenchError
            If the network refuses the images, or its output is neither features (B, d) nor a pair of features and logits, or is not finite.
        """
        weight = next(self.network.parameters(), torch.empty(0))
        x = images.to(weight.device, torch.float32).contiguous(memory_format=torch.channels_last)
        with _in_one_line(f"extractor {self.name!r} cannot take images of shape {tuple(x.shape)}", WorkbenchError):
            with _float32(x.device.type):
                output = self.network(x)
            features, logits = output if isinstance(output, tuple) and len(output) == 2 else (output, None)
            rows = len(x) * self.crops
            logits = torch.zeros(rows, 0, device=x.device) if logits is None else logits
        for kind, value in (("features", features), ("logits", logits)):
            if not isinstance(value, Tensor) or value.ndim != 2 or len(value) != rows or (kind == "features" and not value.shape[1]):
                shape = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"as a {type(value).__name__}"
                raise WorkbenchError(f"extractor {self.name!r} gave {kind} {shape} for {len(x)} images; expected ({rows}, d)")
            if value.is_complex() or value.layout != torch.strided:
                raise WorkbenchError(f"extractor {self.name!r} gave {kind} of {value.dtype}, {value.layout}; expected dense real numbers")
            if not torch.isfinite(value.float()).all():
                raise WorkbenchError(f"extractor {self.name!r} gave {kind} that are not finite")
        widths = (features.shape[1], logits.shape[1])
        if widths != (self._widths or widths):
            raise WorkbenchError(f"extractor {self.name!r} gave {widths} features and logits of an image, and {self._widths} before")
        self._widths = widths
        return features.float(), logits.float()

    def widths(self, size: int) -> tuple[int, int]:
        """The numbers of features and of logits of a crop of an image (3, size, size); raises the errors of a call."""
        if self._widths:
            return self._widths
        features, logits = self(torch.full((1, 3, size, size), 128.0))
        return features.shape[1], logits.shape[1]


def default_extractor(data: str) -> str | None:
    """What "auto" stands for with this `Config.data`; None: no network knows such images."""
    return {"twins": "twins", "binding": None, "binding-near": None}.get(data, "inception")


def open_extractor(extractor, weights_file: str = "", verify: bool = True, pairs: int = 1) -> Extractor:
    """The extractor that a parameter names.

    Parameters
    ----------
    extractor
        "inception", "twins", "package.module:attribute" (a network, or a class or function that makes one), a network, or an `Extractor`.
    weights_file, verify
        As for `inception`.
    pairs
        As for `twins`.

    Raises
    ------
    ParameterError, WorkbenchError
        If there is no such extractor, or its weights are missing or wrong.
    """
    if isinstance(extractor, Extractor):
        return extractor
    if isinstance(extractor, nn.Module):
        return Extractor(extractor)
    if extractor == "inception":
        return inception(weights_file or None, verify)
    if weights_file:
        raise ParameterError(f"weights_file={short_repr(weights_file)} goes with extractor='inception', not with {short_repr(extractor)}")
    if extractor == "twins":
        return twins(pairs)
    return _named_network(str(extractor))


def _named_network(text: str) -> Extractor:
    """The network that "package.module:attribute" names or makes."""
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", text):
        raise ParameterError(
            f"extractor={short_repr(text)} is not known; use inception, twins, or 'package.module:attribute' for your own network"
        )
    module, _, attribute = text.partition(":")
    with _in_one_line(f"extractor={short_repr(text)} cannot be made", ParameterError):
        maker = getattr(importlib.import_module(module), attribute)
    # Nothing else is called: `sys:exit` or `os:abort` would end this process.
    makes = (isinstance(maker, type) and issubclass(maker, nn.Module)) or inspect.isfunction(maker) or isinstance(maker, partial)
    expected = "a torch.nn.Module, or a class or function that makes one"
    if not makes and not isinstance(maker, nn.Module):
        name = getattr(maker, "__name__", None)
        raise ParameterError(
            f"extractor={short_repr(text)} is of type {type(maker).__name__}{f' ({name})' if name else ''}, not {expected}"
        )
    with _in_one_line(f"extractor={short_repr(text)} cannot be made", ParameterError):
        network = maker() if makes else maker
        if isinstance(network, nn.Module):
            return Extractor(network)
    raise ParameterError(f"extractor={short_repr(text)} made a {type(network).__name__}, not {expected}")


@contextmanager
def _in_one_line(failure: str, kind: type[WorkbenchError]) -> Iterator[None]:
    """Context in which any exception of a user's code, even `SystemExit`, becomes a one-line error; interrupts pass."""
    try:
        yield
    except (KeyboardInterrupt, WorkbenchError):
        raise
    except BaseException as error:
        try:
            text = " ".join(str(error).split())
        except Exception:  # str() is the user's code too
            text = "(no message)"
        raise kind(f"{failure}: {type(error).__name__}: {text[:500]}") from error


def inception(weights_file: str | Path | None = None, verify: bool = True) -> Extractor:
    """The Inception network of 2015-12-05, which defines IS, FID and KID: 2048 features (pool 3), 1008 logits without bias.

    Parameters
    ----------
    weights_file
        By default the one in the data folder, which is downloaded if it is absent.
    verify
        Refuse other weights. If False, other weights are used, and the scores are not called FID and IS.

    Raises
    ------
    WorkbenchError
        If the weights are missing and cannot be downloaded, or are not the reference weights.
    """
    network, digest = inception_v3.load(weights_file, verify)
    return Extractor(network, "inception", digest, reference=digest.startswith(inception_v3.SHA256))


def twins(pairs: int = 1) -> Extractor:
    """The small classifier of twins in this package: 64 features, 6 logits of each of an image's `pairs`, which are cropped.

    Its scores are `fd_twins@...`, never FID. The hash depends on `pairs`.
    """
    content = twins_classifier.WEIGHTS.read_bytes() + (f" {pairs} crops".encode() if pairs > 1 else b"")
    return Extractor(twins_classifier.load(pairs=pairs), "twins", hashlib.sha256(content).hexdigest(), crops=pairs)


def _digest(network: nn.Module) -> str:
    """SHA-256 of a network's class and of all its tensors by name."""
    content = hashlib.sha256(type(network).__qualname__.encode())
    for name, value in sorted(network.state_dict().items()):
        content.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        content.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return content.hexdigest()


@contextmanager
def _float32(device: str) -> Iterator[None]:
    """Context of full float32 precision: no TF32, no bf16, no autocast."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
