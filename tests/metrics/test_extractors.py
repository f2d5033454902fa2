import io
import os
import urllib.error
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from workbench import ParameterError, WorkbenchError
from workbench.metrics import inception_v3
from workbench.metrics.extractors import Extractor, inception, open_extractor
from workbench.metrics.inception_v3 import resize_matrix


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


@pytest.mark.slow
def test_the_reference_weights_are_known_by_their_hash(inception_file, monkeypatch):
    other = inception(inception_file, verify=False)
    assert not other.reference and other.label == f"inception@{other.digest[:8]}"
    monkeypatch.setattr(inception_v3, "SHA256", other.digest[:8])
    assert inception(inception_file).reference


def test_weights_are_found_in_the_data_folder(inception_file, monkeypatch, folders):
    (folders / "data").mkdir()
    (folders / "data" / inception_v3.FILE).symlink_to(inception_file)
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


@pytest.mark.parametrize(
    "weights",
    [nn.Linear(3, 3).state_dict(), {}, {"fc.weight": torch.zeros(2, 2).to_sparse()}, {"fc": torch.zeros(2, dtype=torch.complex64)}],
    ids=["linear", "nothing", "sparse", "complex"],
)
def test_weights_of_another_network(weights, tmp_path):
    torch.save(weights, tmp_path / "other.pth")
    with pytest.raises(WorkbenchError, match=r"other\.pth holds the weights of another network") as error:
        inception(tmp_path / "other.pth", verify=False)
    assert "\n" not in str(error.value)


def test_weights_that_are_no_regular_file_or_too_large(tmp_path, folders, monkeypatch):
    os.mkfifo(tmp_path / "fifo")
    with open(tmp_path / "large", "wb") as file:
        file.truncate(2**31)
    for name, says in {
        "fifo": "not a regular file", "": "not a regular file", "/dev/zero": "not a regular file", "large": "2.1 GB", "x" * 300: "no such file",
        "a\0b": "no such file", "~nobody-of-this-name/x": "no such file",
    }.items():  # fmt: skip
        with pytest.raises(WorkbenchError, match=says) as error:
            inception(name if name.startswith("~") else tmp_path / name, verify=False)
        assert "\n" not in str(error.value)
    (folders / "data").mkdir()
    os.mkfifo(folders / "data" / inception_v3.FILE)  # which would be read if its name were all that is looked at
    with pytest.raises(WorkbenchError, match="not a regular file"):
        inception()


def test_a_damaged_weights_file(inception_file, tmp_path):
    """Cut anywhere or flipped, it is refused; and no byte of it is run."""
    content = inception_file.read_bytes()
    for damaged in (content[: len(content) // 2], content[:100], bytes(1000), content[:-100], b"\x80\x02cos\nabort\n(tR."):
        (tmp_path / "weights.pth").write_bytes(damaged)
        with pytest.raises(WorkbenchError, match=r"weights\.pth is not a state_dict"):
            inception(tmp_path / "weights.pth", verify=False)


def test_missing_weights(monkeypatch, tmp_path, folders):
    with pytest.raises(WorkbenchError, match=r"weights_file='.*nothing\.pth': there is no such file"):
        inception(tmp_path / "nothing.pth")

    def no_network(*arguments, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(WorkbenchError, match="could not be downloaded") as error:
        inception()
    assert f"put {inception_v3.FILE} into {folders / 'data'}" in str(error.value) and "https://" in str(error.value)


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
        "my_networks:number": "is of type int, not a torch.nn.Module, or a class or function",
        "inceptoin": "is not known; use inception, twins",
    }.items():
        with pytest.raises(ParameterError, match=says) as error:
            open_extractor(name)
        assert "\n" not in str(error.value)
    with pytest.raises(ParameterError, match="goes with extractor='inception'"):
        open_extractor("twins", weights_file="x.pth")


@pytest.mark.parametrize(
    "name",
    [
        "", ":", "a:b:c", "workbench:", ":twins", "__main__:x", ".x:y", "..:y", "workbench:.", "sys:exit", "os:abort", "os:_exit", "os:environ",
        "os:path", "builtins:exit", "builtins:quit", "builtins:input", "builtins:object", "threading:Thread", "signal:pause", "a\0b:c", "a b:c",
        "a\n:b", "\udc80:x", "os.path:join", "torch.nn:Linear", "torch.nn:Sequential.add", "1:2", "x" * 5000 + ":y", "twins:", "torch:Tensor",
    ],
)  # fmt: skip
def test_whatever_an_extractor_is_called_is_told_in_one_line(name):
    with pytest.raises(ParameterError, match="extractor=") as error:
        open_extractor(name)
    assert "\n" not in str(error.value)


HOSTILE = """
import sys, torch
if {at_import}: {deed}
class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        if {at_construction}: {deed}
    def state_dict(self, *a, **k):
        if {at_digest}: {deed}
        return super().state_dict(*a, **k)
    def forward(self, x):
        {deed}
class Odd(BaseException):
    def __str__(self): raise ValueError
def function(): {deed}
"""


@pytest.mark.parametrize("deed", ["sys.exit(0)", "raise SystemExit", "raise BaseException('a\\nb')", "raise Odd", "raise GeneratorExit"])
@pytest.mark.parametrize("place", ["at_import", "at_construction", "at_digest", "call", "function"])
def test_whatever_an_extractor_raises_is_told_in_one_line(deed, place, tmp_path, monkeypatch):
    at = {name: name == place for name in ("at_import", "at_construction", "at_digest")}
    name = f"hostile_{abs(hash((deed, place)))}"
    (tmp_path / f"{name}.py").write_text(HOSTILE.format(deed=deed, **at))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(WorkbenchError, match=r"extractor.*cannot (be made|take images).*: \w+: ") as error:
        open_extractor(f"{name}:function" if place == "function" else f"{name}:Network")(images(2))
    assert "\n" not in str(error.value)


def test_an_interrupt_stays_an_interrupt():
    class Interrupted(nn.Module):
        def forward(self, x):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_extractor(Interrupted())(images(2))


def test_an_extractor_tells_its_widths_and_classes():
    assert open_extractor("twins").widths(32) == (64, 6) and open_extractor("twins").classes[0] == "disc"
    assert open_extractor(Plain()).widths(128) == (4, 0) and open_extractor(Plain()).classes is None

    class Changing(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)).repeat(1, len(x))

    changing = open_extractor(Changing())
    changing(images(2))
    with pytest.raises(WorkbenchError, match=r"gave \(9, 0\) features and logits of an image, and \(6, 0\) before"):
        changing(images(3))


class Gives(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, x):
        return self.output


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (Plain(logits=torch.zeros(3, 2)), r"logits of shape \(3, 2\) for 5 images"),
        (nn.Identity(), r"features of shape \(5, 3, 32, 32\) for 5 images; expected \(5, d\)"),
        (Plain(logits=torch.full((5, 2), torch.nan)), "logits that are not finite"),
        (Gives((torch.zeros(5, 2),) * 3), "gave features as a tuple for 5 images"),
        (Gives(None), "gave features as a NoneType"),
        (Gives([torch.zeros(5, 2)]), "gave features as a list"),
        (Gives((torch.zeros(5, 2), "logits")), "gave logits as a str"),
        (Gives(torch.zeros(5, 0)), r"features of shape \(5, 0\)"),
        (Gives(torch.zeros(5, 2, dtype=torch.complex64)), "expected dense real numbers"),
        (Gives(torch.zeros(5, 2).to_sparse()), "expected dense real numbers"),
        (Gives(torch.full((5, 2), 1e300, dtype=torch.float64)), "features that are not finite"),
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
