import io

import numpy as np
import pytest
import torch
from PIL import Image

from workbench import WorkbenchError, figures, train
from workbench.data import open_data
from workbench.metrics.protocols import protocol


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


# ----------------------------------------------------------------------------------------------------- scores


def scored(run, step, settings, data="imagenet", **scores):
    record = dict(
        step=step, scores=scores, errors={"kid": 0.01} if "kid" in scores else {}, per_class={}, protocol=f"{settings}; inception@6726825d",
        settings={name: getattr(settings, name) for name in settings.__dataclass_fields__}, n=settings.n,
        extractor=dict(name="inception", sha256="6726825d", reference=True),
        reference=dict(data=data, fingerprint="f", size=128, n=50_000),
    )  # fmt: skip
    run.append("evaluations.jsonl", record)
    return record


def test_scores_over_steps_with_published_numbers_where_they_compare(run):
    official = protocol("official")
    for step in (200, 100):
        record = scored(run, step, official, fid=step / 10, kid=0.5)
    plot = figures.scores(run)
    ours, published = plot.figure.data[0], {trace.name: trace.y[0] for trace in plot.figure.data if trace.line.dash}
    assert (list(ours.x), list(ours.y)) == ([100, 200], [10, 20]) and published["SAGAN as reported"] == 18.65
    assert "official; inception@6726825d" in plot.figure.layout.yaxis.title.text  # every axis carries the protocol
    assert "n=50,000" in ours.hovertemplate
    assert opened(plot.png()).width >= 900
    scored(run, 300, official, data="cats", fid=3)
    assert not [t for t in figures.scores(run, "fid", like=run.evaluations()[-1]).figure.data if t.line.dash]
    assert list(figures.scores(run, "fid", like=record).figure.data[0].x) == [100, 200]


def test_scores_of_different_protocols_are_shown_together_only_when_asked_for(run):
    scored(run, 100, protocol("official"), fid=10)
    scored(run, 100, protocol("official", n=5000), fid=15)
    with pytest.raises(WorkbenchError, match=r"do not compare.*n: 50000 and 5000.*across_protocols=True"):
        figures.scores(run)
    plot = figures.scores(run, across_protocols=True)
    assert "different protocols" in plot.figure.layout.title.text
    assert {"official; inception@6726825d", "official (but n=5000); inception@6726825d"} <= {trace.name for trace in plot.figure.data}
    with pytest.raises(WorkbenchError, match="there is no score 'fidd' yet; did you mean 'fid'"):
        figures.scores(run, "fidd")


def test_several_runs_side_by_side(run, tiny):
    other = train(tiny(run="other"))
    for owner in (run, other):
        scored(owner, 100, protocol("official"), fid=10)
    assert {trace.name for trace in figures.scores([run, other], "fid").figure.data if not trace.line.dash} == {run.name, "other"}
    assert figures.scores([]).png()  # nothing to show is no error


def test_every_number_of_the_table_carries_its_protocol(run):
    records = [scored(run, 100, protocol("official"), fid=10.123456, kid=0.5), scored(run, 200, protocol("official", n=70), fid=9)]
    table = figures.score_table(records).data
    assert table.count("<tr>") == 3 and "10.123" in table and "0.5 ± 0.01" in table
    cells = [cell for cell in table.split("<td ")[1:]]
    assert len(cells) == 4 and all(cell.startswith('title="official') for cell in cells)
    assert "n=70" in cells[1] and "n=70" not in cells[0] and "imagenet at 128x128" in cells[0]


def test_strips_show_images_unblurred():
    image = torch.zeros(3, 3, 8, 8)
    image[:, 0], image[:, 1:] = 1, -1  # red
    picture = figures.strips([("one", image), ("two", image[:1])], "title", size=64)
    shown = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert ((shown == (255, 0, 0)).all(1)).sum() > 4 * 60**2
    assert figures.strips([], "nothing") is None
