import hashlib
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter

from workbench.data.twins import ANGLE, GREY, HEIGHT, RADIUS, Twins, draw_half
from workbench.messages import WorkbenchError
from workbench.metrics.twins_classifier import WEIGHTS, TwinsClassifier, load
from workbench.metrics.twins_training import accuracy

COUNT = 2000


def features_of(images):
    net = load()
    return torch.cat([net(part.float())[0] for part in images.split(100)]).double().numpy()


def frechet(features, others):
    a, b = np.cov(features, rowvar=False), np.cov(others, rowvar=False)
    return ((features.mean(0) - others.mean(0)) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)


def drawn(seed):
    """Attributes of `COUNT` twins."""
    rng = np.random.default_rng(seed)
    ranges = {"hue": (0, 1), "radius": RADIUS, "height": HEIGHT, "angle": ANGLE, "grey": GREY}
    return {"label": rng.integers(6, size=COUNT)} | {name: rng.uniform(*bounds, COUNT) for name, bounds in ranges.items()}


def pictured(left, right):
    """Float images in [0, 255] of these attributes of the left and the right halves (None: the same)."""
    left = draw_half(**left, size=32)
    right = left if right is None else draw_half(**right, size=32)
    return torch.from_numpy(np.rint(np.concatenate([left, right[..., ::-1]], 3) * 255)).float()


@pytest.fixture(scope="module")
def reference():
    """Features of twins."""
    return features_of(Twins(32, seed=3).batch(np.arange(COUNT))[0])


@pytest.fixture(scope="module")
def clean():
    """Other twins."""
    return pictured(drawn(6), None)


@pytest.fixture(scope="module")
def clean_features(clean):
    return features_of(clean)


@pytest.fixture(scope="module")
def floor(reference, clean_features):
    """The distance of two clean sets."""
    return frechet(reference, clean_features)


@pytest.mark.parametrize("size, count", [(32, 1000), (64, 300), (128, 100)])
def test_held_out_twins_are_recognised(size, count):
    assert accuracy(load(), size, count) >= 0.98


def test_the_file_is_small_and_has_its_hash_in_its_name():
    content = WEIGHTS.read_bytes()
    assert WEIGHTS.name == f"twins-{hashlib.sha256(content).hexdigest()[:8]}.safetensors"
    assert len(content) <= 430_000 and sum(p.numel() for p in TwinsClassifier().parameters()) < 110_000
    assert [path.name for path in WEIGHTS.parent.glob("twins-*.safetensors")] == [WEIGHTS.name]


def test_a_missing_or_damaged_file_is_refused(tmp_path):
    path = tmp_path / WEIGHTS.name
    with pytest.raises(WorkbenchError, match="cannot be read"):
        load(path)
    content = bytearray(WEIGHTS.read_bytes())
    content[-1] ^= 1  # still a valid file, with one other weight
    path.write_bytes(content)
    with pytest.raises(WorkbenchError, match="damaged"):
        load(path)


def test_it_is_frozen():
    net = load()
    assert not any(module.training for module in net.modules())
    assert not any(p.requires_grad for p in net.parameters())
    features, logits = net(torch.rand(2, 3, 32, 32) * 255)
    assert features.shape == (2, 64) and logits.shape == (2, 6) and not features.requires_grad


def test_images_are_judged_one_by_one(clean):
    net, x = load(), clean[:64]
    together = torch.cat(net(x), 1)
    alone = torch.cat([torch.cat(net(one[None]), 1) for one in x])
    assert (together - alone).abs().max() < 1e-4
    assert (torch.cat(net(x.contiguous(memory_format=torch.channels_last)), 1) - together).abs().max() < 1e-4


def test_larger_images_are_averaged_by_area(clean):
    net, x = load(), clean[:8]
    blocks = x.repeat_interleave(4, 2).repeat_interleave(4, 3)
    noise = torch.randn(8, 3, 32, 4, 32, 4) * 50
    noise = (noise - noise.mean((3, 5), keepdim=True)).reshape(8, 3, 128, 128)  # of mean zero in every area
    assert (net(blocks + noise)[0] - net(x)[0]).abs().max() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("size", "pairs"), [(32, 2), (64, 2), (128, 4), (128, 2)])
def test_pairs_are_recognised_one_by_one(size, pairs):
    x, y = Twins(size, seed=5, pairs=pairs).batch(np.arange(300))
    features, logits = load(pairs=pairs)(x.float())
    assert features.shape == (300 * pairs, 64)
    assert (logits.argmax(1) == y.repeat_interleave(pairs)).float().mean() > 0.99
    assert (load()(x.float())[1].argmax(1) == y).float().mean() < 0.3  # of the whole image, which it was not trained on


@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (1, 3, 32, 64), (1, 3, 48, 48), (3, 32, 32)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(WorkbenchError, match="give \\(B, 3, S, S\\)"):
        load()(torch.zeros(shape))


def test_every_feature_is_in_use(reference):
    covariance = np.cov(reference, rowvar=False)
    assert covariance.diagonal().min() > 0.1 * covariance.diagonal().max()
    assert np.linalg.cond(covariance) < 1e4


def test_the_distance_shrinks_with_the_number_of_images(reference, clean_features, floor):
    assert floor < frechet(reference[:500], clean_features[:500]) < 2


def test_the_distance_does_not_see_the_size(reference):
    x, large = (Twins(size, seed=4).batch(np.arange(500))[0] for size in (32, 64))
    near, far = frechet(reference, features_of(x)), frechet(reference, features_of(large))
    assert abs(far - near) < 0.1 * near


def assert_growing(floor, distances):
    distances = [1.1 * floor, *distances]
    assert all(a < b for a, b in pairwise(distances)), distances


CORRUPTIONS = {
    "blur": (lambda x, sigma: torch.from_numpy(gaussian_filter(x.numpy(), (0, 0, sigma, sigma))), (0.5, 1, 2)),
    "noise": (lambda x, sigma: (x + sigma * torch.randn(x.shape)).clamp(0, 255), (8, 16, 64)),
    "brightness": (lambda x, shift: (x + shift).clamp(0, 255), (10, 40)),
    "saturation": (lambda x, factor: torch.lerp(x.mean(1, keepdim=True), x, factor), (0.9, 0.5)),
}


@pytest.mark.slow
@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_the_distance_grows_with_a_corruption_of_all_images(corruption, reference, clean, floor):
    corrupt, strengths = CORRUPTIONS[corruption]
    assert_growing(floor, [frechet(reference, features_of(corrupt(clean, strength))) for strength in strengths])


def mismatched(name):
    """The clean images, but with one attribute of the right half drawn anew."""
    return lambda clean: pictured(drawn(6), drawn(6) | {name: drawn(7)[name]})


def without_right_glyph(clean):
    background = clean[:, :, :1, 16:17]  # in the middle of the upper edge: glyphs do not reach it
    return torch.cat([clean[..., :16], background.expand(-1, -1, 32, 16)], 3)


SPOILED = {
    "hue": (mismatched("hue"), (0.02, 0.05, 0.2, 1)),
    "height": (mismatched("height"), (0.05, 0.1, 0.3, 1)),
    "radius": (mismatched("radius"), (0.1, 0.3, 1)),
    "angle": (mismatched("angle"), (0.2, 0.5, 1)),
    "grey": (mismatched("grey"), (0.05, 0.2, 1)),
    "class": (mismatched("label"), (0.02, 0.05, 0.2, 1)),
    "missing glyph": (without_right_glyph, (0.02, 0.05, 0.2, 1)),
    "replaced by grey": (lambda clean: torch.full_like(clean, 96), (0.02, 0.05, 0.2, 0.5)),
    "class imbalance": (lambda clean: pictured(drawn(6) | {"label": np.zeros(COUNT, np.int64)}, None), (0.1, 0.2, 0.4, 1)),
}


@pytest.mark.slow
@pytest.mark.parametrize("spoiled", SPOILED)
def test_the_distance_grows_with_the_share_of_spoiled_images(spoiled, reference, clean, clean_features, floor):
    spoil, shares = SPOILED[spoiled]
    features = features_of(spoil(clean))
    mixed = [np.concatenate([features[: int(share * COUNT)], clean_features[int(share * COUNT) :]]) for share in shares]
    assert_growing(floor, [frechet(reference, m) for m in mixed])


def test_the_distance_grows_with_mode_collapse(reference, clean_features, floor):
    collapsed = [clean_features[np.arange(COUNT) % modes] for modes in (300, 100, 30, 10)]
    assert_growing(floor, [frechet(reference, c) for c in collapsed])
