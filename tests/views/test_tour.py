"""The tour, which takes any run on twins with attention in G."""

import pytest
from PIL import Image

from workbench import Tour, WorkbenchError
from workbench.figures import Drawing
from workbench.paths import outputs_dir
from workbench.runs import create_run


def test_the_views_of_the_demo():
    tour = Tour()
    assert tour.path == "attention.16" and tour.settings()
    assert isinstance(tour.real_images(), Image.Image) and isinstance(tour.without_attention(8), Drawing)
    assert not list(outputs_dir().glob("**/*"))  # it writes nothing


@pytest.mark.parametrize(("settings", "reason"), [
    (dict(attention_g="none"), "no attention in G"), (dict(attention_g="16", attention_block="residual"), "no attention in G"),
    (dict(image_size=64, pairs=2), "has pairs=2"), (dict(data="cifar10"), "was trained on 'cifar10'"),
])  # fmt: skip
def test_runs_that_it_cannot_show_are_refused(tiny, settings, reason):
    create_run(tiny(run="mine", **settings))
    with pytest.raises(WorkbenchError, match=reason):
        Tour("mine")
