"""The code base of a file is recognised by names, and those that do not fit are refused by name."""

import pytest
import torch
from published import random_tensors

from workbench import ParameterError, open_checkpoint
from workbench.files import UnreadableError
from workbench.paths import outputs_dir


def refusal(*arguments, **settings):
    with pytest.raises((UnreadableError, ParameterError)) as caught:
        open_checkpoint(*arguments, **settings)
    assert "\n" not in str(caught.value) and not outputs_dir().exists()
    return str(caught.value)


def test_a_wrong_layout_is_told_and_the_right_one_named(file):
    path = file(random_tensors("biggan-pytorch G"), "G.pth")
    assert "layout='studiogan' does not fit G.pth: its tensors are named as in layout='biggan-pytorch'" in refusal(path, layout="studiogan")
    assert "layout='studio' is not one of auto, biggan-pytorch, mmgeneration, studiogan; did you mean 'studiogan'?" in refusal(
        path, layout="studio"
    )
    assert "channel_order='gbr' is not one of auto, rgb, bgr" in refusal(path, channel_order="gbr")
    assert "run='x' is not for open_checkpoint" in refusal(path, run="x")
    assert "dta" in refusal(path, dta="x") and "batch_norm_eps=7" in refusal(path, batch_norm_eps=7)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("l1.0.module.weight_bar", "attn1.query_conv.weight"), "heykeetae/Self-Attention-GAN: transposed convolutions"),
        (("l1.weight_orig", "block2.c1.weight_orig"), "mimicry: its blocks enlarge maps bilinearly"),
        (("linear.weight", "blocks.0.0.conv4.weight"), "BigGAN-deep"),
        (("linear0.weight_orig", "shared.weight"), "hierarchical latents"),
        (("synthesis.b4.const",), "StyleGAN"),
        (
            ("encoder.weight", "decoder.weight"),
            "its names are of none of biggan-pytorch, mmgeneration, studiogan; they begin with encoder.weight",
        ),
    ],
)
def test_networks_that_do_not_fit_are_refused_by_name(file, names, reason):
    assert reason in refusal(file({name: torch.ones(2, 2) for name in names}, "G.pth"))
