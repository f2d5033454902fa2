import io

import numpy as np
import pytest
from PIL import Image

from workbench import figures, train
from workbench.data import open_data


@pytest.fixture
def run(tiny):
    return train(tiny(attention_g="8,16"))


def opened(png):
    return Image.open(io.BytesIO(png))


def test_curves_hold_the_history_and_a_static_picture(run):
    plot = figures.curves(run)
    by_name = {(trace.legendgroup, trace.name): trace for trace in plot.figure.data}
    assert list(by_name["hinge losses", "D"].y) == [row["loss_d"] for row in run.history()]
    assert ("gamma of the attention layers", "g8") in by_name and ("gamma of the attention layers", "d16") in by_name
    bundle = plot._repr_mimebundle_()
    assert {"application/vnd.plotly.v1+json", "image/png"} == bundle.keys()
    assert opened(plot.png()).width >= 900


def test_the_static_picture_shows_the_lines(run):
    """Each line's colour is in the picture: removing a line removes its pixels."""
    plot = figures.curves(run)
    before = np.asarray(opened(plot.png()).convert("RGB")).astype(int)
    plot.figure.data[0].y = [None] * len(plot.figure.data[0].y)
    assert (np.abs(before - np.asarray(opened(plot.png()).convert("RGB"))).sum(2) > 60).sum() > 50


def test_samples_are_enlarged_without_blur(run):
    small, large = Image.open(run.sample_path(4)).convert("RGB"), figures.samples(run, width=1000)
    factor = large.width // small.width
    assert factor > 1 and np.array_equal(np.asarray(large.convert("RGB"))[::factor, ::factor], np.asarray(small))
    assert figures.samples(run, step=0).tobytes() != figures.samples(run, step=4).tobytes()


def test_attention_figure_and_its_absence(run, tiny):
    assert figures.attention(run).width > 600
    assert figures.attention(train(tiny(run="plain", attention_g="none"))) is None
    assert figures.attention(train(tiny(run="free", num_classes=0, ema_decay=0))).width > 600


@pytest.mark.parametrize("augment", ["none", "flip", "diffaug"])
def test_the_preview_shows_what_d_will_see(tiny, augment):
    config = tiny(augment=augment)
    picture = figures.real_images(open_data(config), config)
    first = open_data(config).batch([0])[0][0].permute(1, 2, 0).numpy()
    factor = round(picture.height / 138)  # 4 rows of 32 pixels, borders of 2
    assert picture._repr_jpeg_() is None  # only a PNG goes into the notebook
    shown = np.asarray(picture.convert("RGB"))[2 * factor : 34 * factor : factor, 2 * factor : 34 * factor : factor]
    if augment == "none":
        assert np.abs(shown.astype(int) - first).max() <= 1
    elif augment == "flip":
        assert min(np.abs(shown.astype(int) - image).max() for image in (first, first[:, ::-1])) <= 1
    else:
        assert np.abs(shown.astype(int) - first).max() > 20


def test_summary_is_one_picture(run):
    picture = opened(figures.summary_png(run))
    assert picture.height > opened(figures.curves(run).png()).height
