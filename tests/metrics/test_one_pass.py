import errno
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from workbench import ParameterError, WorkbenchError
from workbench.data import twins
from workbench.files import StorageError
from workbench.metrics import one_pass, resources
from workbench.metrics import scores as score_kinds
from workbench.metrics import twins as small_classifier
from workbench.metrics.class_score import inception_score
from workbench.metrics.extractors import Extractor, inception
from workbench.metrics.fid import frechet_distance_of_features, intra_frechet_distance
from workbench.metrics.kid import kernel_distance
from workbench.metrics.one_pass import measure, plan, select
from workbench.metrics.prdc import density_coverage, precision_recall
from workbench.metrics.protocols import PROTOCOLS, protocol
from workbench.metrics.references import reference
from workbench.metrics.resources import require_room
from workbench.metrics.scores import ImageSet
from workbench.records import evaluation_record


class Small(nn.Module):
    """Six features and six logits of an image."""

    classes = list("abcdef")

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(48, 6, bias=False)
        nn.init.normal_(self.layer.weight, generator=torch.Generator().manual_seed(0))

    def forward(self, x):
        features = torch.tanh(self.layer(nn.functional.adaptive_avg_pool2d(x / 128 - 1, 4).flatten(1)))
        return features, 3 * features.flip(1)


def fakes(start, count):
    """Twins whose halves do not fit in every third image."""
    x, y = twins.Twins(32, seed=1).batch(np.arange(start, start + count))
    x[(torch.arange(start, start + count) % 3) == 0] = 255 - x[(torch.arange(start, start + count) % 3) == 0]
    return x, y


def measured_by(images_of, real, extractor, settings, scores=None, classes="", truth=None, real_classes=None, **options):
    """`measure` by what `plan` says; classes are letters, by default those of the real images too."""
    own = ImageSet(settings.n, list(classes), settings.n // max(1, len(classes)))
    names = list(classes if real_classes is None else real_classes)
    theirs = real and ImageSet(real.facts["n"], names, int(np.bincount(real.labels, minlength=len(names)).min()) if names else 0)
    chosen = plan(scores, extractor, settings, own, theirs, extractor.widths(32), truth is not None)
    return evaluation_record(**measure(images_of, real, chosen, truth, **options))


def everything(n):
    x, y = fakes(0, n)
    return x.float() * 256 / 255, y


N = 1200


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("WORKBENCH_DATA", str(tmp_path_factory.mktemp("data")))
    extractor, settings = Extractor(Small()), protocol("official", n=N, reference_n=1500, neighbours_n=400, kid_n=1100)
    real = reference(twins.Twins(32), 1500, extractor, settings.to_pixels)
    record = measured_by(fakes, real, extractor, settings, None, "abcdef", lambda x, y: {"twins_hue": twins.disagreement(x, y)["hue"]})
    yield record, real, extractor
    patch.undo()


@pytest.mark.slow
def test_scores_are_those_of_all_features_at_once(measured):
    record, real, extractor = measured
    x, y = everything(N)
    features, logits = extractor(x)
    label = extractor.label
    scores, errors = record["scores"], record["errors"]
    reals = torch.as_tensor(np.array(real.features))
    assert scores[f"fd_{label}"] == pytest.approx(frechet_distance_of_features(features, reals), rel=1e-6)
    assert scores[f"cs_{label}"] == pytest.approx(inception_score(logits, 1)[0], rel=1e-6)
    mean, deviation = inception_score(logits, 10)
    assert (scores[f"cs_10splits_{label}"], errors[f"cs_10splits_{label}"]) == pytest.approx((mean, deviation), rel=1e-5)
    assert (scores[f"kd_{label}"], errors[f"kd_{label}"]) == pytest.approx(kernel_distance(features[:1100], reals), rel=1e-5)
    some = reals[np.sort(np.random.default_rng(2).permutation(1500)[:400])]
    assert (scores[f"precision_{label}"], scores[f"recall_{label}"]) == precision_recall(some, features[:400])
    assert (scores[f"density_{label}"], scores[f"coverage_{label}"]) == density_coverage(some, features[:400])
    each = intra_frechet_distance(real.features, real.labels, features, y, 6)
    assert record["per_class"][f"intra_fd_n200_{label}"] == pytest.approx(each.tolist(), rel=1e-5)
    assert scores[f"intra_fd_n200_{label}"] == pytest.approx(each.mean().item(), rel=1e-5)
    assert scores[f"accuracy_{label}"] == pytest.approx((logits.argmax(1) == y).double().mean().item())
    assert scores["twins_hue"] == pytest.approx(twins.disagreement(*fakes(0, N))["hue"].median().item(), rel=1e-6)
    assert len(record["per_class"]["twins_hue"]) == 6


def test_a_record_says_how_it_came_about(measured):
    record, _, extractor = measured
    assert record["protocol"].startswith("official (but n=1200, reference_n=1500") and record["protocol"].endswith(extractor.label)
    assert record["settings"]["n"] == record["n"] == N
    assert record["extractor"] == dict(name="small", sha256=extractor.digest, reference=False)
    assert record["reference"] == dict(data="twins", fingerprint=twins.Twins(32).fingerprint, size=32, n=1500)
    assert not any(name.startswith(("fid", "is", "kid", "intra_fid")) for name in record["scores"])
    json.dumps(record, allow_nan=False)


def test_the_batch_size_changes_nothing(measured):
    record, real, extractor = measured
    settings = protocol("official", n=N, reference_n=1500, neighbours_n=400, kid_n=1100)
    again = measured_by(fakes, real, extractor, settings, {"fid", "is"}, batch_size=7)
    for name, value in again["scores"].items():
        assert value == pytest.approx(record["scores"][name], rel=1e-6)
    assert again["scores"].keys() == {name for name in record["scores"] if name.startswith(("cs", "fd"))}


def test_shuffled_labels_are_noticed():
    """A planted bug: classes that do not belong to their images raise the distance per class and lower the accuracy."""
    extractor, settings = small_classifier(), protocol("official", n=600, reference_n=1000)
    real = reference(twins.Twins(32), 1000, extractor, settings.to_pixels)

    def scores_of(shift):
        def images_of(start, count):
            x, y = twins.Twins(32, seed=1).batch(np.arange(start, start + count))
            return x, y.roll(shift)

        record = measured_by(images_of, real, extractor, settings, {"intra_fid", "accuracy"}, twins.CLASSES)
        return [record["scores"][f"{name}_{extractor.label}"] for name in ("intra_fd_n100", "accuracy")]

    (right, accurate), (wrong, inaccurate) = scores_of(0), scores_of(1)
    assert wrong > 5 * right and accurate > 0.98 and inaccurate < 0.4


@pytest.mark.slow
def test_scores_of_several_pairs_are_those_of_their_crops():
    """On real images of two pairs all classes are recognised, and the distance sees wrong twins as well as on images of one pair."""

    def scores_of(pairs, n, share):
        extractor, settings = small_classifier(pairs), protocol("official", n=n, reference_n=n, neighbours_n=100)
        real = reference(twins.Twins(32, pairs=pairs), n, extractor, settings.to_pixels)

        def images_of(start, count):
            x, y = twins.Twins(32, 1, pairs).batch(np.arange(start, start + count))
            wrong = np.arange(start, start + count) % 100 < 100 * share
            x[wrong, :, :, 16:] = x.roll(1, 0)[wrong, :, :, 16:]
            return x, y

        truth = lambda x, y: {"twins_hue": twins.disagreement(x, y, pairs)["hue"]}  # noqa: E731
        scores = {"fid", "intra_fid", "precision_recall", "accuracy", "truth"}
        record = measured_by(images_of, real, extractor, settings, scores, twins.CLASSES, truth)
        return {name.partition("@")[0]: value for name, value in record["scores"].items()}, record, real

    (right, record, real), (wrong, *_), (right_one, *_), (wrong_one, *_) = (
        scores_of(*case) for case in ((2, 600, 0), (2, 600, 0.2), (1, 1200, 0), (1, 1200, 0.2))
    )
    assert right["accuracy_twins"] > 0.99 and right["twins_hue"] < 1e-9
    assert wrong["fd_twins"] / right["fd_twins"] > 0.8 * wrong_one["fd_twins"] / right_one["fd_twins"] > 4
    assert record["n"] == 600 and "n=600, each image scored as 2 crops, against 600 real images" in record["protocol"]
    assert real.moments.n == len(real.features) == len(real.labels) == 1200 and "intra_fd_n200_twins" in right
    assert np.array_equal(real.indices, np.arange(600).repeat(2))


@pytest.mark.slow
def test_features_are_kept_only_where_a_score_needs_them(measured, monkeypatch):
    _, real, extractor = measured
    rooms = []
    room = resources.feature_array
    monkeypatch.setattr(one_pass, "feature_array", lambda rows, columns: rooms.append(rows) or room(rows, columns))
    settings = protocol("official", n=N, neighbours_n=50, kid_n=1000)
    for scores, rows in (({"fid", "is"}, []), ({"precision_recall"}, [50]), ({"kid", "density_coverage"}, [1000]), ({"intra_fid"}, [N])):
        rooms.clear()
        measured_by(fakes, real, extractor, settings, scores, "abcdef")
        assert rooms == rows


@pytest.mark.slow
def test_neighbours_are_drawn_from_all_classes_of_a_folder_in_the_order_of_its_files(measured):
    _, real, extractor = measured
    settings = PROTOCOLS["torch-fidelity"].replace(n=N, neighbours_n=50)
    x, y = fakes(0, N)
    order = y.argsort(stable=True)
    record = measured_by(lambda start, count: (x[order][start : start + count], y[order][start : start + count]), real, extractor, settings)
    draw = np.sort(np.random.default_rng(3).permutation(N)[:50])
    some = torch.as_tensor(real.features[np.sort(np.random.default_rng(2).permutation(1500)[:50])])
    assert len(y[order][draw].unique()) == 6
    expected = precision_recall(some, extractor(settings.to_pixels(x[order][draw]))[0])
    assert (record["scores"][f"precision_{extractor.label}"], record["scores"][f"recall_{extractor.label}"]) == expected


def test_large_features_go_to_the_disk(monkeypatch):
    monkeypatch.setattr(resources, "IN_MEMORY", 100)
    on_disk = resources.feature_array(10, 10)
    on_disk[3] = 5
    assert isinstance(on_disk, np.memmap) and on_disk[3].sum() == 50 and not isinstance(resources.feature_array(5, 5), np.memmap)


@pytest.mark.parametrize(
    ("scores", "n", "classes", "says"),
    [
        ("kd", 500, "abcdef", "scores='kd' cannot be computed: needs 1,000 images of either side; there are 500"),
        ("cs", 5, "abcdef", "n=5 is less than 10 splits"),
        ("intra_fd", 11, "abcdef", "two images of each class on either side; the rarest class has 1 of 11 samples and"),
        ("intra_fd", 50, "", "there are no classes"),
        (
            "accuracy",
            50,
            "abcdeg",
            "the classes of the samples and of extractor 'small' differ \\('g' of the samples alone; 'f' of extractor",
        ),
        ("accuracy", 50, "aabcde", "differ"),
        ("truth", 50, "abcdef", "needs ground truth, which only runs on twins and binding have"),
        ("precision_recall", 3, "abcdef", "needs more than 3 images"),
    ],
)
def test_scores_that_cannot_be_computed_are_refused_when_asked_for(measured, scores, n, classes, says):
    _, real, extractor = measured
    unused = lambda start, count: pytest.fail("it is refused before anything is computed")  # noqa: E731
    with pytest.raises(ParameterError, match=says) as error:
        measured_by(unused, real, extractor, protocol("official", n=n), select(scores, extractor), classes)
    record = measured_by(fakes, real, extractor, protocol("official", n=n), None, classes)  # else they are left out, and that is said
    assert record["scores"] and record["left_out"][scores] == str(error.value).partition(" cannot be computed: ")[2]
    assert not any(name.startswith(scores) for name in record["scores"])
    left_out = {name.partition("_small@")[0].partition("_n")[0] for name in [*record["scores"], *record["left_out"]]}
    assert left_out >= {"cs", "fd", "kd", "intra_fd", "accuracy", "truth"}  # each is there, or it is said why not


def test_classes_are_matched_by_name(measured):
    """The same images and labels, with the names in another order on either side, give the same scores; other names give none."""
    _, real, extractor = measured
    settings, scores = protocol("official", n=300), {"intra_fid", "accuracy"}
    right = measured_by(fakes, real, extractor, settings, scores, "abcdef")
    order = [3, 0, 5, 1, 2, 4]

    def renamed(start, count):
        x, y = fakes(start, count)
        return x, torch.tensor([order.index(k) for k in y.tolist()])

    other = measured_by(renamed, real, extractor, settings, scores, [list("abcdef")[k] for k in order], real_classes="abcdef")
    for name, value in right["scores"].items():
        assert other["scores"][name] == pytest.approx(value, rel=1e-9)
        for place, k in enumerate(order):
            assert other["per_class"][name][place] == pytest.approx(right["per_class"][name][k], rel=1e-9)
    wrong = measured_by(fakes, real, extractor, settings, None, "abcdef", real_classes="bcdefg")
    assert "'a' of the samples alone; 'g' of the real images alone" in wrong["left_out"]["intra_fd"]
    with pytest.raises(ParameterError, match=r"scores='intra_fd' cannot be computed: the classes .* differ"):
        measured_by(fakes, real, extractor, settings, {"intra_fid"}, "abcdef", real_classes="abcde")


def test_a_score_that_fails_is_left_out_and_the_others_are_kept(measured, monkeypatch):
    _, real, extractor = measured

    def fails(*arguments):
        raise torch.linalg.LinAlgError("did not\nconverge")

    monkeypatch.setattr(score_kinds, "frechet_distance", fails)
    monkeypatch.setattr(score_kinds.PrecisionRecall, "pair", staticmethod(lambda *arguments: (float("nan"), 0.5)))
    record = measured_by(fakes, real, extractor, protocol("official", n=60))
    assert "did not converge" in record["left_out"]["fd"] and record["left_out"][f"precision_{extractor.label}"] == "it came out as nan"
    assert f"recall_{extractor.label}" in record["scores"] and f"cs_{extractor.label}" in record["scores"]
    json.dumps(record, allow_nan=False)


def test_images_that_are_not_finite_are_told_before_the_extractor_is_blamed(measured):
    _, real, extractor = measured
    with pytest.raises(WorkbenchError, match="images 0 to 49 hold NaN or infinity: the weights of the generator have diverged"):
        measured_by(lambda start, count: (torch.full((count, 3, 32, 32), torch.nan), None), real, extractor, protocol("official", n=50))


@pytest.mark.parametrize(
    ("n", "reference_n", "says"),
    [
        (10**12, 100, r"n=1,000,000,000,000 and reference_n=100 need 120,000.0 GB of memory; .* GB are free"),
        (100, 10**12, r"need 48,000.0 GB of memory"),
        (10**8, 100, r"need [\d,.]+ GB in .*; 1.0 GB are free: make room, or set a lower n"),
        (2 * 10**6, 100, r"take [\d,]+ days for their features alone"),
    ],
)
def test_what_is_too_much_is_refused_with_an_estimate(measured, n, reference_n, says, monkeypatch):
    _, _, extractor = measured
    monkeypatch.setattr(resources.psutil, "virtual_memory", lambda: SimpleNamespace(available=10**11))
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda place: SimpleNamespace(free=10**9))
    if n == 2 * 10**6:
        monkeypatch.setattr(resources, "LONGEST", 1)
    settings = protocol("official", n=n)
    chosen = plan(
        {"intra_fid"} if n == 10**8 else {"fid"}, extractor, settings, ImageSet(n, list("ab"), n), ImageSet(100, list("ab"), 50), (6, 6)
    )
    with pytest.raises(ParameterError, match=says) as error:
        require_room(("n", "reference_n"), n, reference_n, chosen.features, extractor, 32)
    assert "\n" not in str(error.value)


def test_an_extractor_of_too_many_features_is_refused_with_an_estimate():
    wide, settings = Extractor(nn.Flatten()), protocol("official", n=60)
    chosen = plan({"fid"}, wide, settings, ImageSet(60), ImageSet(60), wide.widths(256))
    with pytest.raises(ParameterError, match=r"'flatten' gives 196,608 features per image, whose covariances need 1,546.2 GB"):
        require_room(("n", "reference_n"), 60, 60, chosen.features, wide, 256)


def test_a_disk_without_room_for_features_is_told_before_they_are_written(monkeypatch):
    def full(handle, start, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(resources, "IN_MEMORY", 100)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match=r"cache cannot be written: No space left on device.*make room"):
        resources.feature_array(10, 10)


def test_without_real_images_and_without_logits(measured):
    _, _, extractor = measured
    record = measured_by(fakes, None, extractor, protocol("official", n=50))
    assert set(record["scores"]) == {f"cs_{extractor.label}", f"cs_10splits_{extractor.label}"} and record["reference"] is None

    class NoLogits(Small):
        def forward(self, x):
            return super().forward(x)[0]

    plain = Extractor(NoLogits())
    with pytest.raises(WorkbenchError, match="gives no logits"):
        measured_by(fakes, None, plain, protocol("official", n=50), {"is"})


# ----------------------------------------------------------------------------------------------------- names


def test_fid_needs_inception():
    small = Extractor(Small())
    for name in ("fid", "is", "kid", "intra_fid"):
        with pytest.raises(ParameterError, match=f"scores='{name}' is defined by the reference Inception"):
            select(name, small)
    assert select("fd, cs", small) == {"fid", "is"} and select("all", small) is None and select("", small) is None
    with pytest.raises(ParameterError, match="did you mean 'fid'"):
        select("fidd", small)
    genuine = Extractor(Small(), "inception", "6726825d" * 8, reference=True)
    assert select("fid", genuine) == {"fid"}
    record = measured_by(fakes, None, genuine, protocol("official", n=50))
    assert set(record["scores"]) == {"is", "is_10splits"}


# ------------------------------------------------------------------------------------------- against torch-fidelity


class Pictures(Dataset):
    """uint8 images (3, S, S) as torch-fidelity and `measure` take them."""

    def __init__(self, seed, size, count):
        source = np.random.default_rng([seed, size])
        coarse = torch.as_tensor(source.integers(0, 256, (count, 3, 4 + 2 * seed, 4 + 2 * seed)), dtype=torch.float32)
        self.images = nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 255).byte()
        self.name, self.length, self.size, self.fingerprint = "pictures", count, size, f"{seed} {size} {count}"

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return self.images[index]

    def batch(self, indices):
        return self.images[indices], torch.zeros(len(indices), dtype=torch.int64)


@pytest.mark.slow
@pytest.mark.parametrize("size", [32, 128])
def test_kid_and_is_are_those_of_torch_fidelity(inception_file, size, monkeypatch):
    """The same random Inception, images of 32 and 128 pixels: 12 generated, 16 real ones, so covariances are far from full rank.

    Features that are those of torch-fidelity show in KID as in FID, whose two roots of 2048 x 2048 take 20 s: `test_fid` compares these.
    """
    import torch_fidelity

    fake, real = Pictures(1, size, 12), Pictures(2, size, 16)
    theirs = torch_fidelity.calculate_metrics(
        input1=fake, input2=real, cuda=False, isc=True, fid=False, kid=True, kid_subset_size=10, batch_size=12, cache=False, verbose=False, save_cpu_ram=True,
        feature_extractor_weights_path=str(inception_file),
    )  # fmt: skip
    monkeypatch.setattr(score_kinds, "KID_SUBSET", 10)
    extractor = inception(inception_file, verify=False)
    settings = PROTOCOLS["torch-fidelity"].replace(n=12)
    statistics = reference(real, 0, extractor, settings.to_pixels)
    ours = measured_by(lambda start, count: (fake.images[start : start + count], None), statistics, extractor, settings, {"is", "kid"})
    value = {name.partition("_inception@")[0]: score for name, score in ours["scores"].items()}
    error = {name.partition("_inception@")[0]: score for name, score in ours["errors"].items()}
    assert value["kd"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)
    assert error["kd"] == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-3)
    assert value["cs_10splits"] == pytest.approx(theirs["inception_score_mean"], rel=1e-5)
    assert error["cs_10splits"] == pytest.approx(theirs["inception_score_std"], rel=1e-3)
