"""Speed of the metrics, as ratios to torch-fidelity and SciPy in one run: `python -m benchmarks.metrics`.

Inception's weights are random here: time does not depend on them.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from workbench import WorkbenchError
from workbench.machine import describe_machine
from workbench.messages import command
from workbench.metrics import Extractor, Moments, Reference, frechet_distance, inception, intra_frechet_distance, measure, protocol
from workbench.metrics.fid import square_root_factor
from workbench.metrics.one_pass import plan
from workbench.metrics.scores import ImageSet

from .timing import in_turn, median_ratio, peak_memory, seconds

DIMENSION = 2048


def random_inception(path: Path) -> Path:
    """Write a weights file of Inception's shape with random weights, whose features vary from image to image."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    no_weights = io.BytesIO()
    torch.save({}, no_weights)
    no_weights.seek(0)
    with mock.patch.object(FeatureExtractorInceptionV3, "load_state_dict"):
        network = FeatureExtractorInceptionV3("random", ["2048"], feature_extractor_weights_path=no_weights)
    rng = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, generator=rng)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=rng)
            module.running_var.uniform_(0.5, 1.5, generator=rng)
    network.fc.bias.normal_(generator=rng)
    torch.save(network.state_dict(), path)
    return path


def inception_like(n: int, seed: int) -> Tensor:
    """Features (n, 2048) float32 whose spectrum decays over six decades, like Inception's."""
    rng = torch.Generator().manual_seed(seed)
    scale = torch.logspace(0, -3, DIMENSION)
    mix = torch.linalg.qr(torch.randn(DIMENSION, DIMENSION, generator=torch.Generator().manual_seed(0)))[0]
    return (torch.randn(n, DIMENSION, generator=rng) * scale) @ mix + 0.5


def compare(workbench: Callable[[], object], reference: Callable[[], object], repeats: int) -> dict:
    """Time both in turn: median seconds, and the median ratio."""
    times = in_turn(dict(workbench=lambda: seconds(workbench), reference=lambda: seconds(reference)), repeats)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return dict(ratio=median_ratio(times["reference"], times["workbench"]), **medians, repeats=repeats)


def extraction(size: int, batch: int, repeats: int) -> dict:
    """Features of a batch of images, against torch-fidelity's network."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with TemporaryDirectory() as folder:
        file = random_inception(Path(folder) / "random.pth")
        extractor = inception(file, verify=False)
        fidelity = FeatureExtractorInceptionV3("fidelity", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(file))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    extractor.to(device), fidelity.to(device)
    x = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device=device)
    with torch.inference_mode():
        result = compare(lambda: extractor(x)[0].sum().item(), lambda: fidelity(x)[0].sum().item(), repeats)
        difference = ((extractor(x)[0] - fidelity(x)[0]).norm() / fidelity(x)[0].norm()).item()
    speed = batch / result["workbench"]
    return result | dict(size=size, batch=batch, device=device, images_per_second=speed, relative_difference=difference)


def frechet(repeats: int) -> dict:
    """A Fréchet distance of full-rank 2048-d covariances to a reference with known factor, against SciPy's square root."""
    from scipy.linalg import sqrtm

    a, b = (Moments.of(inception_like(5000, seed)) for seed in (1, 2))
    factor, distances = square_root_factor(b.covariance), {}

    def workbench() -> None:
        distances["workbench"] = frechet_distance(a.mean, a.covariance, b.mean, b.covariance, factor)

    def reference() -> None:
        root = sqrtm((a.covariance @ b.covariance).numpy())
        squares = float((a.mean - b.mean).square().sum() + (a.covariance + b.covariance).trace())
        distances["reference"] = squares - 2 * float(root.trace().real)

    result = compare(workbench, reference, repeats)
    without = seconds(lambda: frechet_distance(a.mean, a.covariance, b.mean, b.covariance))
    return result | dict(without_factor=without, relative_difference=abs(distances["workbench"] / distances["reference"] - 1))


def intra(classes: int, real: int, fake: int) -> dict:
    """Intra-FID of many classes on synthetic features, against SciPy's square root of one class times their number."""
    from scipy.linalg import sqrtm

    features = inception_like(max(real, 2000), 3).numpy()
    rng = np.random.default_rng(0)
    real_labels, fake_labels = np.zeros(real, np.int64), np.zeros(fake, np.int64)
    total = 0.0
    for _ in range(classes):
        x, y = (features[rng.integers(0, len(features), count)] for count in (real, fake))
        total += seconds(partial(intra_frechet_distance, x, real_labels, y, fake_labels, 1))
    a, b = np.cov(x.astype(np.float64), rowvar=False), np.cov(y.astype(np.float64), rowvar=False)
    scipy_seconds = seconds(lambda: sqrtm(a @ b))
    return dict(classes=classes, real=real, fake=fake, seconds=total, ratio=scipy_seconds * classes / total, scipy_one_class=scipy_seconds)


def memory(n: int) -> dict:
    """Growth of peak memory in MB while `n` samples of 2048 features and 1008 logits are scored."""

    class Cheap(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(48, DIMENSION), nn.Linear(48, 1008)

        def forward(self, x):
            x = nn.functional.adaptive_avg_pool2d(x / 128 - 1, 4).flatten(1)
            return self.a(x), self.b(x)

    rng = np.random.default_rng(0)
    features = inception_like(10_000, 4)
    reference = Reference(Path(), dict(data="synthetic", fingerprint="", size=32, n=10_000, kept=10_000))
    reference.moments, reference.features = Moments.of(features), features.numpy()
    reference.labels, reference.factor = np.zeros(10_000, np.int64), square_root_factor(reference.moments.covariance)
    before = peak_memory()
    images = torch.from_numpy(rng.integers(0, 256, (256, 3, 32, 32), dtype=np.uint8))
    scores = {"is", "fid", "kid", "precision_recall", "density_coverage"}
    extractor, settings = Extractor(Cheap()), protocol("official", n=n)
    computable = plan(scores, extractor, settings, ImageSet(n), ImageSet(10_000), extractor.widths(32))
    duration = seconds(lambda: measure(lambda s, c: (images[:c], None), reference, computable))
    return dict(n=n, scores=sorted(scores), megabytes=round((peak_memory() - before) / 2**20), seconds=duration)


@command
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metrics", description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="pairs of timings, of which the median counts [3]")
    parser.add_argument("--batch", type=int, default=32, help="images that the extractors take at once [32]")
    parser.add_argument("--classes", type=int, default=1000, help="classes of intra-FID [1000]")
    parser.add_argument("--samples", type=int, default=50_000, help="samples of which memory is measured [50000]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record there")
    arguments = parser.parse_args()
    if min(arguments.repeats, arguments.batch, arguments.classes) < 1 or arguments.samples < 2000:
        raise WorkbenchError("repeats, batch and classes must be at least 1, and samples at least 2000")
    record = describe_machine() | dict(threads=torch.get_num_threads(), command=sys.orig_argv)

    record["memory"] = result = memory(arguments.samples)
    print(f"memory: {result['megabytes']} MB more for {result['n']:,} samples of 2048 features ({', '.join(result['scores'])})", flush=True)
    for size in (32, 128):
        record[f"extraction_{size}"] = result = extraction(size, arguments.batch, arguments.repeats)
        details = (
            f"{result['images_per_second']:.1f} images/s on {result['device']}, features differ by {result['relative_difference']:.1e}"
        )
        print(f"features at {size} px: {result['ratio']:.2f} times torch-fidelity's speed ({details})", flush=True)
    record["frechet"] = result = frechet(arguments.repeats)
    details = f"{result['workbench']:.2f} s and {result['reference']:.1f} s, values differ by {result['relative_difference']:.1e}"
    print(f"Fréchet distance, cached reference: {result['ratio']:.1f} times SciPy's sqrtm ({details})", flush=True)
    record["intra"] = result = intra(arguments.classes, 1300, 50)
    details = f"{result['ratio']:.0f} times SciPy's sqrtm of one class times {result['classes']}"
    print(f"intra-FID of {result['classes']} classes, 1300 real and 50 generated each: {result['seconds']:.0f} s ({details})", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=2))


if __name__ == "__main__":
    sys.exit(main())
