"""Each preset is the configuration that it names: facts of its source equal it, or are in the documented list of differences."""

import dataclasses
import functools
import math
import tomllib
from pathlib import Path

import pytest
import torch

from workbench import Config, Discriminator, Generator
from workbench.metrics.protocols import PROTOCOLS
from workbench.presets import PRESETS

SOURCES = tomllib.loads((Path(__file__).parent / "preset_sources.toml").read_text())
PAGE = (Path(__file__).parents[1] / "docs/presets.md").read_text()


@functools.cache
def networks(config: Config) -> dict:
    """Properties of the networks that the settings build."""
    config = config.replace(sn_g=False, sn_d=False, sn_gains=False, init="xavier")  # sigma cannot be computed without numbers
    with torch.device("meta"):
        g, d = Generator(config), Discriminator(config)
    blocks = [*d.blocks.values(), *d.flat]
    return dict(
        channels_g=[g.linear.out_features // 16, *(block.conv2.out_channels for block in g.blocks.values())],
        channels_d=[block.conv2.out_channels for block in d.blocks.values()],
        hidden_d=[block.conv1.out_channels for block in blocks],
        maps_d=[int(size) for size in d.blocks],
        last_norm_momentum=g.norm.momentum,
    )


def ours(name: str) -> dict:
    config = Config.preset(name)
    return dataclasses.asdict(config) | networks(config)


def equal(theirs, value) -> bool:
    return math.isnan(theirs) if value is None else theirs == pytest.approx(value) if isinstance(value, float) else theirs == value


def rows(name: str) -> list[str]:
    """The rows of the table of differences that a preset must have."""
    source = SOURCES[name]["differences"]
    names = {what: f"`{what}`" if what in ours(name) and what != "last_norm_momentum" else what for what in source}
    names["last_norm_momentum"] = "momentum of G's last norm"
    cells = {what: [f"{x:,}" if isinstance(x, int | float) else x for x in pair[:2]] for what, pair in source.items()}
    return [f"| `{name}` | {names[what]} | {theirs} | {here} |" for what, (theirs, here) in cells.items()]


def test_every_preset_has_a_source():
    assert SOURCES.keys() == PRESETS.keys() - {"twins32", "binding32"}  # our own


@pytest.mark.parametrize("name", SOURCES)
def test_facts_of_the_source_are_the_preset_or_listed_as_differences(name):
    facts, differences, values = SOURCES[name]["facts"], SOURCES[name]["differences"], ours(name)
    assert not facts.keys() & differences.keys() and facts.keys() <= values.keys()
    wrong = {what: (theirs, values[what]) for what, (theirs, _) in facts.items() if not equal(theirs, values[what])}
    assert not wrong, f"source, preset: {wrong}"
    for what, (theirs, here, _) in differences.items():
        assert theirs != here, f"{what} is no difference"
        assert what not in values or equal(here, values[what]), f"{what} is {values[what]}"
    # Whatever a preset sets is checked, but for what does not change the training.
    reporting = {"log_every", "sample_every", "checkpoint_every", "keep_checkpoints", "evaluate_every", "evaluate_n"}
    networks_only = {"width", "width_d", "max_multiplier", "d_downsamples", "d_narrow"}  # as channels_g, channels_d, maps_d, hidden_d
    open_questions = PRESETS["imagenet128"].keys() if name == "imagenet128-paper" else set()  # the paper's, answered as there
    without_ema = set() if (facts | differences).get("ema_decay", [0])[0] else {"ema_start"}
    assert not PRESETS[name].keys() - reporting - networks_only - open_questions - without_ema - facts.keys() - differences.keys()


@pytest.mark.parametrize(
    ("name", "changes"),
    [("cifar10", dict(augment="none")), ("imagenet128", dict(augment="flip")), ("imagenet128-biggan", dict(attention_g="32", attention_d="32")),
     ("sngan-projection", dict(d_narrow=False)), ("sngan-projection", dict(batch_size=256))],
)  # fmt: skip
def test_the_comparison_sees_a_wrong_preset(name, changes, monkeypatch):
    monkeypatch.setitem(PRESETS, name, PRESETS[name] | changes)
    with pytest.raises(AssertionError, match="source, preset: "):
        test_facts_of_the_source_are_the_preset_or_listed_as_differences(name)


def test_the_page_lists_the_differences_and_no_others():
    listed = [line for line in PAGE.splitlines() if line.startswith("| `") and line.count("|") == 5]
    assert listed == [row for name in SOURCES for row in rows(name)]
    for name, source in SOURCES.items():
        assert f"| `{name}` | {source['source'].split(',')[0]}" in PAGE and source["reported"].split(";")[0] in PAGE


def test_a_preset_and_a_protocol_have_different_names():
    assert not PRESETS.keys() & PROTOCOLS.keys()
