import math

import pytest
import torch

from workbench import ParameterError, WorkbenchError
from workbench.metrics.protocols import PROTOCOLS, Protocol, brief, differences, protocol, require_comparable
from workbench.metrics.reported import published


def record(settings: Protocol, digest="6726825d", data="imagenet", size=128, reference=True):
    return dict(
        settings={name: getattr(settings, name) for name in settings.__dataclass_fields__},
        extractor=dict(name="inception", sha256=digest, reference=reference),
        reference=dict(data=data, fingerprint="f", size=size, n=50_000),
    )


def test_pixels_of_each_protocol():
    """-1, 0 and 1, and what falls halfway between two of the 256 values, 127.5."""
    x = torch.tensor([-1.0, 0.0, 1.0, 0.4 / 127.5]).view(1, 1, 1, 4)
    pixels = {name: settings.to_pixels(x).flatten().tolist() for name, settings in PROTOCOLS.items()}
    for name in ("official", "workbench"):  # (p - 128) / 128, which Inception does, is then x itself
        assert torch.allclose((torch.tensor(pixels[name]) - 128) / 128, x.flatten(), atol=1e-6)
    assert pixels["torch-fidelity"] == pixels["biggan"] == pixels["miyato-koyama"] == [0, 127, 255, 127]
    assert pixels["mmgeneration"] == [0, 128, 255, 128]  # halves go up
    real = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    assert PROTOCOLS["torch-fidelity"].to_pixels(real).flatten().tolist() == [0, 128, 255]
    official = (PROTOCOLS["official"].to_pixels(real).flatten() - 128) / 128
    assert torch.allclose(official, real.flatten() / 127.5 - 1, atol=1e-6)  # 2 p / 255 - 1, as the released code scales real images


def test_images_out_of_range_are_clamped_by_quantisation_only():
    x = torch.tensor([-1.5, 1.5]).view(1, 1, 1, 2)
    assert PROTOCOLS["mmgeneration"].to_pixels(x).flatten().tolist() == [0, 255]
    assert PROTOCOLS["official"].to_pixels(x).flatten().tolist() == pytest.approx([-64, 320])


def test_one_line_says_everything():
    for name, settings in PROTOCOLS.items():
        assert settings.brief == name and str(settings).startswith(f"{name}: n=50,000, against") and "\n" not in str(settings)
    changed = protocol("official", n=1000, truncation=0.5)
    assert changed.brief == "official (but n=1000, truncation=0.5)"
    assert "n=1,000" in str(changed) and "truncated at 0.5" in str(changed)
    # What a protocol leaves open is no change of it.
    assert protocol("workbench", weights="ema").brief == "workbench"
    assert protocol("miyato-koyama", n=5_000_000).brief == "miyato-koyama"
    given = protocol("torch-fidelity", weights="none")
    assert given.brief == "torch-fidelity" and "images as given" in str(given) and "statistics" not in str(given)
    assert brief(f"{changed}; twins@12345678") == f"{changed.brief}; twins@12345678" and brief("medians") == "medians"
    # Every two settings that differ have lines that differ.
    others = dict(
        n=7, reference_n=7, weights="ema", statistics="batch", truncation=1.0, pixels="round", logit_bias=False, splits=3, shuffle_seed=1,
        neighbours_n=7, kid_n=7, white=255, k_precision=9, k_density=9, per_class=9,
    )  # fmt: skip
    lines = {str(protocol("official", **{name: value})) for name, value in others.items()}
    assert len(lines | {str(PROTOCOLS["official"])}) == len(others) + 1


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("offical", {}, "protocol='offical' is not known; did you mean 'official'"),
        ("official", dict(n=1), "n=1 is not in range; allowed: at least 2"),
        ("official", dict(pixels="ceil"), "allowed: one of float, round, floor"),
        ("official", dict(m=1), "unknown parameter 'm'"),
        ("official", dict(truncation=math.nan), "truncation=nan is not a number"),
    ],
)
def test_what_does_not_fit(name, changes, says):
    with pytest.raises(ParameterError) as error:
        protocol(name, **changes)
    assert says in str(error.value)


def test_records_of_different_protocols_do_not_compare():
    a = record(protocol("official"))
    assert differences(a, record(protocol("official"))) == []
    # Two names for the same settings compare.
    assert differences(a, record(Protocol("workbench"))) == []
    for other, says in (
        (record(protocol("official", n=1000)), "n: 50000 and 1000"),
        (record(protocol("official"), digest="aaaa"), "extractor"),
        (record(protocol("official"), data="cifar10"), "reference data: imagenet and cifar10"),
        (record(protocol("torch-fidelity")), "logit_bias: True and False"),
    ):
        with pytest.raises(WorkbenchError, match="cannot be compared") as error:
            require_comparable([a, a, other])
        assert says in str(error.value) and "across_protocols=True" in str(error.value)
    require_comparable([a, a])
    require_comparable([])


def test_published_numbers_are_for_the_same_data_and_protocol_only():
    found = published(record(protocol("official")))
    assert ("fid", 18.65, "SAGAN as reported") in found and ("is", 52.52, "SAGAN as reported") in found
    for other in (
        record(protocol("official", n=5000)),
        record(protocol("torch-fidelity")),
        record(protocol("official"), data="cats"),
        record(protocol("official"), size=64),
        record(protocol("official"), reference=False),
    ):
        assert published(other) == []
    assert published(record(protocol("mmgeneration", weights="raw"), data="cifar10", size=32))[0][:2] == ("fid", 9.43)
    assert published(record(protocol("miyato-koyama", n=5_000_000)))[0][0] == "intra_fid_n5000"
