"""How fast the metrics are, as ratios against torch-fidelity and SciPy, all measured in one run: `python -m workbench.metrics.bench`.

Inception's weights are random here: time does not depend on them.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from ..messages import command
from ..parameters import WorkbenchError
from ..runs import describe_machine
from .extractors import Extractor, inception
from .fid import frechet_distance, intra_frechet_distance, square_root_factor
from .moments import Moments
from .one_pass import measure, plan
from .protocols import protocol
from .references import Reference
from .scores import ImageSet

DIMENSION = 2048


def random_inception(path: Path) -> Path:
    """Write a weights file of Inception's shape with random weights, whose features vary from image to image."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    with mock.patch.object(FeatureExtractorInceptionV3, "load_state_dict"):
        network = FeatureExtractorInceptionV3("random", ["2048"], feature_extractor_weights_path=nothing)
    source = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, generator=source)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=source)
            module.running_var.uniform_(0.5, 1.5, generator=source)
    network.fc.bias.normal_(generator=source)
    torch.save(network.state_dict(), path)
    return path


def inception_like(n: int, seed: int) -> Tensor:
    """Features (n, 2048) float32 of which the spectrum decays over six decades, as Inception's does."""
    source = torch.Generator().manual_seed(seed)
    scale = torch.logspace(0, -3, DIMENSION)
    mix = torch.linalg.qr(torch.randn(DIMENSION, DIMENSION, generator=torch.Generator().manual_seed(0)))[0]
    return (torch.randn(n, DIMENSION, generator=source) * scale) @ mix + 0.5


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_turn(ours: Callable, theirs: Callable, repeats: int) -> dict:
    """Both in turn, after a warm-up of each: medians, and the median of the ratios of neighbours."""
    ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    ratio = statistics.median(b / a for a, b in pairs)
    return dict(ratio=ratio, ours=statistics.median(a for a, _ in pairs), theirs=statistics.median(b for _, b in pairs), repeats=repeats)


def extraction(size: int, batch: int, repeats: int) -> dict:
    """Features of a batch of images, against torch-fidelity's network."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with TemporaryDirectory() as folder:
        file = random_inception(Path(folder) / "random.pth")
        ours = inception(file, verify=False)
        theirs = FeatureExtractorInceptionV3("theirs", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(file))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ours.to(device), theirs.to(device)
    x = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device=device)
    with torch.inference_mode():
        result = in_turn(lambda: ours(x)[0].sum().item(), lambda: theirs(x)[0].sum().item(), repeats)
        difference = ((ours(x)[0] - theirs(x)[0]).norm() / theirs(x)[0].norm()).item()
    return result | dict(size=size, batch=batch, device=device, images_per_second=batch / result["ours"], relative_difference=difference)


def frechet(repeats: int) -> dict:
    """A Fréchet distance of full-rank 2048-d covariances to a reference whose factor is at hand, against SciPy's square root."""
    from scipy.linalg import sqrtm

    a, b = (Moments.of(inception_like(5000, seed)) for seed in (1, 2))
    factor, found = square_root_factor(b.covariance), {}

    def ours():
        found["ours"] = frechet_distance(a.mean, a.covariance, b.mean, b.covariance, factor)

    def theirs():
        root = sqrtm((a.covariance @ b.covariance).numpy())
        found["theirs"] = float((a.mean - b.mean).square().sum() + (a.covariance + b.covariance).trace()) - 2 * float(root.trace().real)

    result = in_turn(ours, theirs, repeats)
    without = seconds(lambda: frechet_distance(a.mean, a.covariance, b.mean, b.covariance))
    return result | dict(without_factor=without, relative_difference=abs(found["ours"] / found["theirs"] - 1))


def intra(classes: int, real: int, fake: int) -> dict:
    """Intra-FID of many classes on synthetic features, against SciPy's square root of one class times their number."""
    from scipy.linalg import sqrtm

    some = inception_like(max(real, 2000), 3).numpy()
    source = np.random.default_rng(0)

    timings = []
    for _ in range(classes):
        x, y = (some[source.integers(0, len(some), count)] for count in (real, fake))
        labels = np.zeros(real, np.int64), np.zeros(fake, np.int64)
        began = time.perf_counter()
        intra_frechet_distance(x, labels[0], y, labels[1], 1)
        timings.append(time.perf_counter() - began)
    a, b = np.cov(x.astype(np.float64), rowvar=False), np.cov(y.astype(np.float64), rowvar=False)
    theirs = seconds(lambda: sqrtm(a @ b))
    return dict(classes=classes, real=real, fake=fake, seconds=sum(timings), ratio=theirs * classes / sum(timings), scipy_one_class=theirs)


def memory(n: int) -> dict:
    """Peak memory of this process over that before, in MB, while `n` samples of 2048 features and 1008 logits are scored."""

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
    before = _peak()
    images = torch.from_numpy(rng.integers(0, 256, (256, 3, 32, 32), dtype=np.uint8))
    asked, extractor, settings = {"is", "fid", "kid", "precision_recall", "density_coverage"}, Extractor(Cheap()), protocol("official", n=n)
    chosen = plan(asked, extractor, settings, ImageSet(n), ImageSet(10_000), extractor.widths(32))
    took = seconds(lambda: measure(lambda s, c: (images[:c], None), reference, chosen))
    return dict(n=n, scores=sorted(asked), megabytes=round(_peak() - before), seconds=took)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


@command
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m workbench.metrics.bench", description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3, help="pairs of timings, of which the median counts [3]")
    parser.add_argument("--batch", type=int, default=32, help="images that the extractors take at once [32]")
    parser.add_argument("--classes", type=int, default=1000, help="classes of intra-FID [1000]")
    parser.add_argument("--samples", type=int, default=50_000, help="samples of which memory is measured [50000]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record there")
    arguments = parser.parse_args()
    if min(arguments.repeats, arguments.batch, arguments.classes) < 1 or arguments.samples < 2000:
        raise WorkbenchError("repeats, batch and classes must be at least 1, and samples at least 2000")
    record = describe_machine() | dict(threads=torch.get_num_threads(), command=sys.orig_argv)

    record["memory"] = found = memory(arguments.samples)
    print(f"memory: {found['megabytes']} MB more for {found['n']:,} samples of 2048 features ({', '.join(found['scores'])})", flush=True)
    for size in (32, 128):
        record[f"extraction_{size}"] = found = extraction(size, arguments.batch, arguments.repeats)
        said = f"{found['images_per_second']:.1f} images/s on {found['device']}, features differ by {found['relative_difference']:.1e}"
        print(f"features at {size} px: {found['ratio']:.2f} times torch-fidelity's speed ({said})", flush=True)
    record["frechet"] = found = frechet(arguments.repeats)
    said = f"{found['ours']:.2f} s and {found['theirs']:.1f} s, values differ by {found['relative_difference']:.1e}"
    print(f"Fréchet distance, cached reference: {found['ratio']:.1f} times SciPy's sqrtm ({said})", flush=True)
    record["intra"] = found = intra(arguments.classes, 1300, 50)
    said = f"{found['ratio']:.0f} times SciPy's sqrtm of one class times {found['classes']}"
    print(f"intra-FID of {found['classes']} classes, 1300 real and 50 generated each: {found['seconds']:.0f} s ({said})", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=2))


if __name__ == "__main__":
    sys.exit(main())
