import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from workbench import AttentionView, ParameterError, WorkbenchError, figures, train
from workbench.data import open_data
from workbench.inspection import Scene, Subject
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
    assert opened(figures.attention(run).png()).width > 600
    assert figures.attention(train(tiny(run="plain", attention_g="none"))) is None
    assert opened(figures.attention(train(tiny(run="free", num_classes=0, ema_decay=0))).png()).width > 600


def drawn(drawing):
    """What a figure shows: the arrays and alphas of its panels, and its dots with their colours."""
    images = [image.get_array().data for panel in drawing.figure.axes for image in panel.images]
    dots = [(line.get_xydata().tolist(), line.get_color()) for panel in drawing.figure.axes for line in panel.lines]
    return images, dots


def test_the_attention_figure_shows_the_maps_of_its_dots(run):
    view = AttentionView(classes="ring", seeds="4", queries="2,3; 15,0", layer=16)
    subject = Subject(run)
    images, dots = drawn(figures.attention(view))
    look = subject.look(view.scenes(subject)[0])
    np.testing.assert_allclose(images[0], ((look.image + 1) / 2).permute(1, 2, 0), atol=1e-6)
    for heat, query in ((images[2], 2 * 16 + 3), (images[4], 15 * 16)):
        weights = look.beta[query].view(8, 8).repeat_interleave(2, 0).repeat_interleave(2, 1) / 4  # spread over the pooled cell
        np.testing.assert_allclose(heat, weights, atol=1e-7)
    places = {(6.5, 4.5), (0.5, 30.5)}  # (column, row) of the positions' centres in pixels of the image, 2x2 of them each
    assert {tuple(xy[0]) for xy, _ in dots} == places and len({colour for _, colour in dots}) == 2 and len(dots) == 4


def test_a_figure_is_drawn_again_from_its_sidecar(run, tmp_path):
    subject = Subject(run)
    scene = Scene("G/attention.16", label=1, seed=2, gamma0=True)
    drawing = figures.attention_maps([(subject, subject.look(scene))], [[17, 200]], "moved")
    for ending in ("png", "svg", "pdf"):
        path = drawing.save(tmp_path / "new" / f"figure.{ending}")
        assert path.stat().st_size > 5000
        sidecar = path.with_name(path.name + ".json")
        again = figures.redraw(sidecar)
        for ours, theirs in zip(drawn(drawing)[0], drawn(again)[0], strict=True):
            assert np.array_equal(ours, theirs)
        assert drawn(again)[1] == drawn(drawing)[1]
    kept = json.loads(sidecar.read_text())
    assert len(kept["git"]["commit"] or "x" * 40) == 40 and kept["versions"]["torch"]
    (look,) = kept["parameters"]["looks"]
    assert (look["run"], look["queries"], look["scene"]["seed"], look["scene"]["step"]) == (run.name, [17, 200], 2, 4)


def test_a_dropped_image_is_in_the_sidecar(run, tmp_path):
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(stream, "PNG")
    subject = Subject(run)
    look = subject.look(Scene("D/attention.16", source="dropped", sample=subject.drop("mine", stream.getvalue())))
    path = figures.attention_maps([(subject, look)], [[0]]).save(tmp_path / "figure.svg")
    assert np.array_equal(drawn(figures.redraw(f"{path}.json"))[0][0], ((look.image + 1) / 2).permute(1, 2, 0))


@pytest.mark.parametrize("text", ["no json", "{}", '{"figure": "pie"}', "[1]"])
def test_what_is_no_sidecar_is_refused(tmp_path, text):
    (tmp_path / "figure.json").write_text(text)
    with pytest.raises(WorkbenchError, match="is not the sidecar of a figure"):
        figures.redraw(tmp_path / "figure.json")
    with pytest.raises(ParameterError, match=r"can be \.png, \.svg or \.pdf"):
        figures.Drawing(None, "x", {}).save(tmp_path / "figure.jpg")


def test_attention_through_the_training(run):
    images, _ = drawn(figures.attention_through_training(run))
    snapshots = [run.attention(step) for step in (0, 4)]
    np.testing.assert_allclose(images[0], snapshots[0].images[0].permute(1, 2, 0) / 255, atol=1e-6)
    np.testing.assert_allclose(images[3], snapshots[1].images[0].permute(1, 2, 0) / 255, atol=1e-6)
    assert not np.array_equal(images[2], images[5])


def test_a_table_and_its_file(tmp_path):
    rows = [dict(run="<a>", step=1000, value=0.123456), dict(run="b", step=2000, value=2.0)]
    shown = figures.table(rows, save=tmp_path / "new" / "table.csv").data
    assert "&lt;a&gt;" in shown and "1,000" in shown and "0.123<" in shown
    assert (tmp_path / "new" / "table.csv").read_text().splitlines() == ["run,step,value", "<a>,1000,0.123456", "b,2000,2.0"]
    assert figures.table([]) is None


def test_diagnostics_hold_the_history_and_the_spectra(tiny):
    run = train(tiny(sn_g=False))
    plot = figures.diagnostics(run)
    by_name = {(trace.legendgroup, trace.name): trace for trace in plot.figure.data}
    history, spectra = run.history(), run.spectra()
    assert list(by_name["gradient norms", "G, max"].y) == [row["grad_norm_g_max"] for row in history]
    assert list(by_name["margin of D", "real - fake"].y) == [row["d_real"] - row["d_fake"] for row in history]
    assert list(by_name["saturation of D", "fake"].y) == [row["saturated_fake"] for row in history]
    exact = {name: [row["layers"][name]["exact"][0] for row in spectra] for name in spectra[0]["layers"]}
    assert {name for panel, name in by_name if panel.startswith("weights of")} == set(exact)
    assert list(by_name["weights of G", "G/output"].y) == list(by_name["weights at work", "G/output"].y) == exact["G/output"]
    assert max(abs(value - 1) for value in by_name["weights at work", "D/linear"].y) < 1e-3
    assert opened(plot.png()).width >= 900

    layers = figures.singular_values(run, "D")
    assert [note.text for note in layers.figure.layout.annotations] == [name[2:] for name in exact if name[0] == "D"]
    assert list(layers.figure.data[0].y) == exact["D/blocks.16.conv1"] and {trace.name for trace in layers.figure.data} == {
        "largest", "second", "estimate"
    }  # fmt: skip
    assert "estimate" not in {trace.name for trace in figures.singular_values(run).figure.data}
    assert opened(layers.png()).width >= 900


def test_growth_of_several_runs(tiny):
    runs = [train(tiny(run=name, sn_g=sn)) for name, sn in (("both", True), ("d-only", False))]
    plot = figures.growth(runs)
    lines = {(trace.name, trace.yaxis): list(trace.y) for trace in plot.figure.data}
    for run in runs:
        layers = [row["layers"] for row in run.spectra()]
        assert lines[run.name, "y"] == [max(one["exact"][0] for name, one in row.items() if name[0] == "G") for row in layers]
    assert max(lines["both", "y2"]) < 1.3 < min(lines["d-only", "y2"])  # with spectral normalization G works with less
    assert opened(plot.png()).width >= 900


def test_runs_from_before_diagnostics_have_figures_of_what_they_have(run):
    (run.path / "spectra.jsonl").unlink()
    old = [{k: v for k, v in row.items() if not k.startswith(("grad", "saturated"))} for row in run.history()]
    (run.path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in old))
    assert opened(figures.diagnostics(run).png()).width >= 900
    with pytest.raises(WorkbenchError, match="has written down no singular values"):
        figures.singular_values(run)
    with pytest.raises(ParameterError, match="network='E' is not one of G, D"):
        figures.singular_values(run, "E")


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
