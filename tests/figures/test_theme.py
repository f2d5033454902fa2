"""Pictures in notebooks are seen on light and dark pages."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from workbench import figures
from workbench.figures import charts
from workbench.figures.charts import DARK, GREY
from workbench.figures.labels import legible
from workbench.figures.theme import DARKEST, for_any_theme


def contrast(a, b):
    """Of two colours in [0, 1], as WCAG defines it."""
    one, two = (float((np.asarray(c) ** 2.2) @ (0.2126, 0.7152, 0.0722)) for c in (a, b))
    return (max(one, two) + 0.05) / (min(one, two) + 0.05)


SCORES = {"fid": [figures.ScorePoint(group, f"{group}{seed}", 9, seed + 1.0, "n=5", 9.0) for group in "ab" for seed in range(3)]}
PICTURES = dict(
    curves=lambda: figures.curves("twins32", [dict(step=k, loss_d=1.0, loss_g=k / 9) for k in range(9)]),
    means=lambda: figures.against({("fid", "x"): [(point, 1) for point in SCORES["fid"]]}, "against x", "ab"),
    sheet=lambda: figures.strips([("tiny", torch.zeros(3, 3, 32, 32))] * 2, "latents"),
)


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_in_a_notebook_fits_a_light_and_a_dark_page(name):
    drawing = PICTURES[name]()
    picture = np.asarray(Image.open(io.BytesIO(drawing.png_for_any_theme())).convert("RGBA")) / 255
    assert picture[0, 0, 3] == 0 and (picture[..., 3] == 0).mean() > 0.3  # no background
    ink = [int(GREY[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    assert (np.abs(picture - [*ink, 1]).max(-1) < 0.01).sum() > 8  # text and axes
    assert contrast(ink, [1, 1, 1]) > 4 and contrast(ink, [0x11 / 255] * 3) > 4
    saved = np.asarray(Image.open(io.BytesIO(drawing.png())).convert("RGBA"))
    assert saved[0, 0].tolist() == [255] * 4  # a file is for a slide


def test_lines_can_be_seen_on_a_dark_page_and_told_apart():
    plot = PICTURES["means"]()
    data = json.dumps(plot._repr_mimebundle_()["application/vnd.plotly.v1+json"])
    assert DARK in json.dumps(plot.figure.to_json()) and DARK not in data and "rgba(0, 0, 0, 0)" in data
    shades = [legible(colour, DARKEST, 1.0) for colour in charts.colours(14)]
    assert all(line.colour in (GREY, *shades) for line in for_any_theme(plot.description).lines)
    assert min(contrast([int(c[k : k + 2], 16) / 255 for k in (1, 3, 5)], [0x11 / 255] * 3) for c in shades) > 2.4


def test_black_is_ink():
    chart = charts.Chart("", (charts.Panel("", lines=(charts.Line((1.0,), (1.0,), colour="#000000"),), rules=(charts.Rule(0.0, "x"),)),))
    (panel,) = for_any_theme(chart).panels
    assert panel.lines[0].colour == panel.rules[0].colour == GREY
