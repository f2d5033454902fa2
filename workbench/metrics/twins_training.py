"""Training the classifier of twins: `python -m workbench.metrics.twins_training --out FOLDER` writes its weights."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from tqdm import tqdm

from ..data import twins
from ..data.twins import CLASSES, SYMMETRY, Twins, draw_half
from ..messages import ParameterError, command
from .twins_classifier import SIZE, TwinsClassifier, weights_name

BATCH, POOL = 256, 200  # images per step; batches, which are drawn once and reused
LEARNING_RATE, WARM_UP = 2e-3, 100  # the largest learning rate, and the steps until it is reached
WIDEN = 1.4  # attributes of spoiled images have wider ranges by this factor, because generators leave the ranges of twins
MISSING = 0.1  # share of the halves of spoiled images without a glyph
NOISE, BRIGHTNESS, SATURATION = 0.15, 0.15, 0.5  # strongest corruptions, of images in [0, 1]
BLURS = 4  # passes of the blur, each of up to half a square pixel of variance along each axis
COARSE = 8  # height and width of the reconstruction
COVARIANCE = 0.5  # weight of the loss that decorrelates features
# Outputs of a linear layer on the features, in training only: the features must encode these, so their Gaussian depends on them.
HEADS = {"label": 2 * len(CLASSES), "present": 2, "attributes": 14, "agreement": 6, "strengths": 4, "coarse": 3 * COARSE**2}
HELD_OUT = 1_000_003  # seed of the test images


def draw(rng: np.random.Generator, count: int) -> dict[str, Tensor]:
    """Images to train on: half of them twins, the others spoiled, with independent attributes on the left and on the right.

    Returns
    -------
    dict of Tensor
        `images` (B, 3, 32, 32) in [0, 1]; `present` (B, 2), whether left and right half hold a glyph; `label` (B, 2); `attributes`
        (B, 2, 7): cosine and sine of the hue, radius, height, cosine and sine of symmetry times angle, grey, scaled to about unit
        range; `readable` (B, 2, 7): which of them the image shows.
    """
    spoiled = np.arange(count) % 2 == 1
    size = SIZE * 2 if rng.random() < 0.3 else SIZE  # averaging down changes edges a little
    label = rng.integers(len(CLASSES), size=(2, count))
    label[1] = np.where(spoiled & (rng.random(count) < 0.3), label[1], label[0])

    def attribute(low: float, high: float) -> np.ndarray:
        u = rng.random((2, count))
        u[1] = np.where(spoiled & (rng.random(count) < 0.5), u[1], u[0])
        wide = 0.5 + (u - 0.5) * WIDEN
        return low + (high - low) * np.where(spoiled, wide, u)

    hue = attribute(0, 1) % 1
    radius, height, angle, grey = (attribute(*bounds) for bounds in (twins.RADIUS, twins.HEIGHT, twins.ANGLE, twins.GREY))
    present = ~(spoiled & (rng.random((2, count)) < MISSING))
    halves = [draw_half(label[k], hue[k], radius[k], height[k], angle[k], grey[k], size) for k in range(2)]
    halves = [np.where(present[k][:, None, None, None], halves[k], grey[k][:, None, None, None]) for k in range(2)]
    image = torch.from_numpy(np.concatenate([halves[0], halves[1][..., ::-1]], 3)).float()
    symmetry = SYMMETRY.numpy()[label]
    centred = [(v - np.mean(b)) / (b[1] - b[0]) * 2 for v, b in ((radius, twins.RADIUS), (height, twins.HEIGHT), (grey, twins.GREY))]
    turn, phase = 2 * math.pi * hue, symmetry * angle
    attributes = np.stack([np.cos(turn), np.sin(turn), centred[0], centred[1], np.cos(phase), np.sin(phase), centred[2]], -1)
    readable = np.stack([present] * 4 + [present & (symmetry > 0)] * 2 + [np.ones_like(present)], -1)
    return {
        "images": F.avg_pool2d(image, size // SIZE),
        "present": torch.from_numpy(present.T.copy()),
        "label": torch.from_numpy(label.T.copy()),
        "attributes": torch.from_numpy(attributes).transpose(0, 1).float(),
        "readable": torch.from_numpy(readable).transpose(0, 1),
    }


def corrupt(images: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Corrupt half of the images (B, 3, 32, 32) in [0, 1]: blur, saturation, brightness and noise.

    Returns
    -------
    images, strengths
        The images, not clipped, and the strength (B, 4) of each corruption: noise and blur from 0 to 1, the others from -1 to 1.
    """
    count = len(images)
    u = rng.random((count, 4)) * [1, 1, 2, 2] - [0, 0, 1, 1]
    u *= (rng.random((count, 1)) < 0.5) & (rng.random((count, 4)) < 0.5)  # corruptions occur alone and together
    strengths = torch.from_numpy(u).float()
    noise, blur, brightness, saturation = strengths[:, :, None, None, None].unbind(1)
    kernel = (torch.tensor([1.0, 2, 1])[:, None] * torch.tensor([1.0, 2, 1]) / 16).expand(3, 1, 3, 3)
    for _ in range(BLURS):  # squares, here and for the noise, resolve weak corruptions better
        images = images + blur**2 * (F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel, groups=3) - images)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * (1 + SATURATION * saturation) + BRIGHTNESS * brightness
    return images + NOISE * noise**2 * torch.from_numpy(rng.standard_normal(images.shape, np.float32)), strengths


def loss(net: TwinsClassifier, heads: nn.Linear, batch: dict[str, Tensor], images: Tensor, strengths: Tensor) -> Tensor:
    """The training loss on a batch of `draw`, after `corrupt` made `images` and `strengths` of it.

    The features must encode the class, the attributes of each half, their agreement, the strengths of the corruptions, and a coarse
    reconstruction of the image. They must be uncorrelated with unit variance, so that every direction is in use.
    """
    label, attributes, readable = (batch[k] for k in ("label", "attributes", "readable"))
    present = batch["present"].float()
    features, logits = net(images * 255)
    outputs = dict(zip(HEADS, heads(features).split(list(HEADS.values()), 1), strict=True))
    one_hot = F.one_hot(label, len(CLASSES)).float()  # (B, 2, classes)
    # The target is the classes of an image's glyphs in equal shares; without a glyph, all classes.
    shares = (one_hot * present[..., None]).sum(1) + (present.sum(1, keepdim=True) == 0) / len(CLASSES)
    shares = shares / shares.sum(1, keepdim=True)
    same = label[:, 0] == label[:, 1]
    square = (attributes[:, 0] - attributes[:, 1]).square()  # (B, 7)
    agreement = torch.stack([square[:, :2].sum(1), square[:, 2], square[:, 3], square[:, 4:6].sum(1), square[:, 6], 1.0 - same.float()], 1)
    both = readable.all(1)
    comparable = torch.stack([both[:, 0], both[:, 2], both[:, 3], both[:, 4] & same, both[:, 6], both[:, 0]], 1)
    coarse = F.adaptive_avg_pool2d(images, COARSE).flatten(1)
    half_logits = outputs["label"].view(-1, 2, len(CLASSES)).transpose(1, 2)
    centred = features - features.mean(0)
    covariance = centred.T @ centred / (len(features) - 1)
    return (
        F.cross_entropy(logits, shares)
        + 0.5 * (F.cross_entropy(half_logits, label, reduction="none") * present).mean()
        + F.binary_cross_entropy_with_logits(outputs["present"], present)
        + 4 * _mean_square(outputs["attributes"].view(-1, 2, 7) - attributes, readable)
        + 2 * _mean_square(outputs["agreement"] - agreement, comparable)
        + 6 * F.mse_loss(outputs["strengths"], strengths)
        + 4 * F.mse_loss(outputs["coarse"], coarse)
        + COVARIANCE * (covariance - torch.eye(len(covariance))).square().sum() / len(covariance)
    )


def _mean_square(errors: Tensor, where: Tensor) -> Tensor:
    return (errors.square() * where).sum() / where.sum()


def train(seed: int = 0, steps: int = 3000) -> TwinsClassifier:
    """A frozen classifier: a pure function of `seed` and `steps`, on one machine with one number of threads."""
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net, heads = TwinsClassifier().to(memory_format=torch.channels_last), nn.Linear(TwinsClassifier.features, sum(HEADS.values()))
    optimizer = torch.optim.AdamW([*net.parameters(), *heads.parameters()], LEARNING_RATE, weight_decay=1e-4)
    pool = [draw(rng, BATCH) for _ in tqdm(range(min(steps, POOL)), desc="drawing", unit="batch")]
    bar = tqdm(range(steps), desc="training", unit="step")
    for step in bar:
        rate = LEARNING_RATE * min(1, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * step / steps)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = pool[step % len(pool)]
        value = loss(net, heads, batch, *corrupt(batch["images"], rng))  # a new corruption in each step
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        bar.set_postfix(loss=f"{value.item():.3f}", refresh=False)
    return net.to(memory_format=torch.contiguous_format).eval().requires_grad_(False)


@torch.no_grad()
def accuracy(net: TwinsClassifier, size: int = SIZE, count: int = 10_000) -> float:
    """Share of `count` held-out twins (3, size, size) that are classified correctly."""
    correct = 0
    for first in range(0, count, 500):
        images, labels = Twins(size, HELD_OUT).batch(np.arange(first, min(first + 500, count)))
        correct += int((net(images.float())[1].argmax(1) == labels).sum())
    return correct / count


@command
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m workbench.metrics.twins_training", description="Train the classifier of twins.")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="folder for the weights; their hash is part of the file's name"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=3000)
    arguments = parser.parse_args(argv)
    if arguments.seed < 0 or arguments.steps < 1:
        raise ParameterError(f"seed={arguments.seed}, steps={arguments.steps}: seed must be at least 0, steps at least 1")
    torch.set_num_threads(1)  # the same weights on any number of cores; the network is too small to gain from more
    net = train(arguments.seed, arguments.steps)
    print(f"{accuracy(net):.2%} of 10,000 held-out twins are classified correctly")
    content = save_tensors(net.state_dict())
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / weights_name(content)
    path.write_bytes(content)
    print(path)


if __name__ == "__main__":
    sys.exit(main())
