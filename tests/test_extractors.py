import io
import os
import urllib.error
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from workbench import ParameterError, WorkbenchError
from workbench.metrics import extractors
from workbench.metrics.extractors import Extractor, inception, open_extractor, resize_matrix


def images(count=2, size=32, width=None):
    return torch.randint(0, 256, (count, 3, size, width or size), dtype=torch.uint8, generator=torch.Generator().manual_seed(size))


def reference_network(path):
    """torch-fidelity's own extractor on the same weights."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    names = ["2048", "logits_unbiased", "logits"]
    return FeatureExtractorInceptionV3("reference", names, feature_extractor_weights_path=str(path))


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(32, 32), (128, 128), (299, 299), (40, 500)])
def test_inception_agrees_with_torch_fidelity(inception_file, shape):
    x = images(2, *shape)
    pool, logits, biased = reference_network(inception_file)(x)
    extractor = inception(inception_file, verify=False)
    features, mine = extractor(x)
    assert (features.shape, mine.shape) == ((2, 2048), (2, 1008))
    assert relative(features, pool) < 2e-6 and relative(mine, logits) < 2e-6
    assert relative(mine + extractor.network.logit_bias, biased) < 2e-6
    assert relative(extractor(x.float())[0], pool) < 2e-6  # float32 in [0, 255] too


@pytest.mark.slow
@pytest.mark.parametrize("size", [32, 128, 500])
def test_another_resize_would_be_noticed(inception_file, size, monkeypatch):
    """The planted bug: an antialiased or half-pixel resize moves the features by far more than the tolerance above."""
    x, extractor = images(2, size), inception(inception_file, verify=False)
    right = extractor(x)[0]
    bugs = dict(half_pixel=dict(antialias=False), antialiased=dict(antialias=True))
    for bug in bugs.values():
        wrong = F.interpolate(x.float(), (299, 299), mode="bilinear", align_corners=False, **bug)
        assert relative(extractor(wrong)[0], right) > 1e-3


@pytest.mark.parametrize("size", [1, 7, 32, 128, 299, 301, 640])
def test_the_resize_is_that_of_tensorflow_1(size):
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x as tensorflow

    x = images(1, size).float()
    matrix = resize_matrix(size, 299)
    assert torch.allclose(matrix.sum(1), torch.ones(299))
    assert (matrix @ x @ matrix.T - tensorflow(x, (299, 299), align_corners=False)).abs().max() < 1e-4  # of 255


@pytest.mark.slow
def test_an_image_does_not_depend_on_its_batch_mates_nor_on_autocast(inception_file):
    extractor, x = inception(inception_file, verify=False), images(3)
    together = extractor(x)[0]
    assert relative(extractor(x[1:2])[0], together[1:2]) < 1e-6
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(extractor(x)[0], together)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")  # would be bf16 where the hardware has it
        assert torch.equal(extractor(x)[0], together)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


# ----------------------------------------------------------------------------------------------------- weights files


def test_other_weights_are_refused(inception_file):
    with pytest.raises(WorkbenchError, match=r"is not the reference Inception: .* not with 6726825d.*verify_weights=False"):
        inception(inception_file)


def test_the_reference_weights_are_known_by_their_hash(inception_file, monkeypatch):
    other = inception(inception_file, verify=False)
    assert not other.reference and other.label == f"inception@{other.digest[:8]}"
    monkeypatch.setattr(extractors, "INCEPTION_HASH", other.digest[:8])
    assert inception(inception_file).reference


def test_weights_are_found_in_the_data_folder(inception_file, monkeypatch, folders):
    (folders / "data").mkdir()
    (folders / "data" / extractors.INCEPTION_FILE).symlink_to(inception_file)
    with pytest.raises(WorkbenchError, match="is not the reference Inception"):
        inception()


class Harmful:
    def __reduce__(self):
        return os.mkdir, (str(Path(os.environ["WORKBENCH_DATA"]).parent / "executed"),)


@pytest.mark.parametrize("content", ["text", "code", "no names", "empty"])
def test_a_file_that_is_no_weights(content, tmp_path):
    path = tmp_path / "weights.pth"
    if content in ("text", "empty"):
        path.write_text("hello" * (content == "text"))
    else:
        torch.save({"fc.weight": Harmful()} if content == "code" else [torch.zeros(3)], path)
    with pytest.raises(WorkbenchError, match=r"weights\.pth is not a state_dict") as error:
        inception(path, verify=False)
    assert "\n" not in str(error.value) and not (tmp_path / "executed").exists()


def test_weights_of_another_network(tmp_path):
    torch.save(nn.Linear(3, 3).state_dict(), tmp_path / "linear.pth")
    with pytest.raises(WorkbenchError, match=r"linear\.pth holds the weights of another network"):
        inception(tmp_path / "linear.pth", verify=False)


def test_missing_weights(monkeypatch, tmp_path, folders):
    with pytest.raises(WorkbenchError, match=r"weights_file='.*nothing\.pth': there is no such file"):
        inception(tmp_path / "nothing.pth")

    def no_network(*arguments, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(WorkbenchError, match="could not be downloaded") as error:
        inception()
    assert f"put {extractors.INCEPTION_FILE} into {folders / 'data'}" in str(error.value) and "https://" in str(error.value)


# ------------------------------------------------------------------------------------------------------ one's own


class Plain(nn.Module):
    def __init__(self, columns=4, logits=None):
        super().__init__()
        self.layer, self.logits = nn.Linear(3, columns), logits

    def forward(self, x):
        features = self.layer(x.mean((2, 3)))
        return features if self.logits is None else (features, self.logits)


def test_any_network_can_be_an_extractor():
    extractor = open_extractor(Plain())
    features, logits = extractor(images(5))
    assert (features.shape, logits.shape) == ((5, 4), (5, 0))
    assert torch.allclose(features, extractor.network.layer(images(5).float().mean((2, 3))))
    assert extractor.label.startswith("plain@") and not extractor.reference
    assert open_extractor(extractor) is extractor
    assert Extractor(Plain()).digest != extractor.digest  # other weights
    assert extractor(images(5))[0].requires_grad is False


def test_a_network_by_name(tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text(
        "import torch\nclass Mean(torch.nn.Module):\n  def forward(self, x): return x.mean((2, 3))\nready = Mean()\nnumber = 3\ndef broken(): 1 / 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("my_networks:Mean", "my_networks:ready"):
        assert open_extractor(name)(images(2))[0].shape == (2, 3)
    for name, says in {
        "my_networks:nothing": "cannot be made: AttributeError",
        "nowhere:x": "cannot be made: ModuleNotFoundError",
        "my_networks:broken": "cannot be made: ZeroDivisionError",
        "my_networks:number": "cannot be made: TypeError",
        "inceptoin": "is not known; use inception, twins",
    }.items():
        with pytest.raises(ParameterError, match=says) as error:
            open_extractor(name)
        assert "\n" not in str(error.value)
    with pytest.raises(ParameterError, match="goes with extractor='inception'"):
        open_extractor("twins", weights_file="x.pth")


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (Plain(logits=torch.zeros(3, 2)), r"logits of shape \(3, 2\) for 5 images"),
        (nn.Identity(), r"features of shape \(5, 3, 32, 32\) for 5 images; expected \(5, d\)"),
        (Plain(logits=torch.full((5, 2), torch.nan)), "logits that are not finite"),
        (nn.Linear(3, 3), r"'linear' cannot take images of shape \(5, 3, 32, 32\): RuntimeError"),
    ],
)
def test_a_network_that_does_not_fit(network, says):
    with pytest.raises(WorkbenchError, match=says):
        Extractor(network)(images(5))


def test_saved_copies_of_a_network_have_one_digest():
    network, stream = Plain(), io.BytesIO()
    torch.save(network.state_dict(), stream)
    stream.seek(0)
    again = Plain()
    again.load_state_dict(torch.load(stream))
    assert Extractor(network).digest == Extractor(again).digest
