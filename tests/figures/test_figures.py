# ruff: noqa: RUF001
import csv
import io
import itertools
import json
import shutil
import subprocess
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image
from records import parsed, recorded, scored

from workbench import AttentionView, ParameterError, WorkbenchError, figures, train, views
from workbench.attention.snapshots import load_snapshot
from workbench.data import open_data
from workbench.figures import charts
from workbench.figures.charts import Axis, Chart, Line, Panel
from workbench.figures.labels import legible
from workbench.figures.tables import Measured
from workbench.figures.theme import DARKEST
from workbench.metrics.protocols import PROTOCOLS, protocol
from workbench.model import sampling
from workbench.studies import groups
from workbench.views.inspected_run import InspectedRun
from workbench.views.inspection_request import InspectionRequest


@pytest.fixture
def run(trained_once):
    return trained_once(attention_g="8,16")


def opened(png):
    return Image.open(io.BytesIO(png))


@pytest.mark.slow
def test_curves_hold_the_history_and_a_static_picture(run):
    plot = views.train.curves(run)
    by_name = {(trace.legendgroup, trace.name): trace for trace in plot.figure.data}
    assert list(by_name["hinge losses", "D"].y) == pytest.approx([row["loss_d"] for row in run.history()], rel=1e-6)
    norms = by_name["gradient norms (dashed: largest)", "G, max"]
    assert list(norms.y) == pytest.approx([row["grad_norm_g_max"] for row in run.history()], rel=1e-6)
    assert ("gamma", "g8") in by_name and ("gamma", "d16") in by_name
    bundle = plot._repr_mimebundle_()
    assert {"application/vnd.plotly.v1+json", "image/png"} == bundle.keys()
    assert opened(plot.png()).width >= 900


@pytest.mark.slow
def test_the_static_picture_shows_the_lines(run):
    """Each line's colour is in the picture: removing a line removes its pixels."""
    chart = views.train.curves(run).description
    before = np.asarray(opened(figures.Plot(chart).png()).convert("RGB")).astype(int)
    first, *others = chart.panels
    first = replace(first, lines=(replace(first.lines[0], y=(None,) * len(first.lines[0].y)), *first.lines[1:]))
    without = figures.Plot(replace(chart, panels=(first, *others)))
    assert (np.abs(before - np.asarray(opened(without.png()).convert("RGB"))).sum(2) > 60).sum() > 50


def test_samples_are_enlarged_without_blur(run):
    small, large = Image.open(run.sample_path(4)).convert("RGB"), views.train.samples(run, width=1000)
    factor = large.width // small.width
    assert factor > 1 and np.array_equal(np.asarray(large.convert("RGB"))[::factor, ::factor], np.asarray(small))
    assert views.train.samples(run, step=0).tobytes() != views.train.samples(run, step=4).tobytes()


@pytest.mark.slow
def test_attention_figure_and_its_absence(run, tiny):
    assert opened(views.train.attention(run).png()).width > 600
    assert views.train.attention(train(tiny(run="plain", attention_g="none"))) is None
    assert opened(views.train.attention(train(tiny(run="free", num_classes=0, ema_decay=0))).png()).width > 600


def drawn(drawing):
    """What a figure shows: the arrays of its panels (pixels from 0 to 255), and its dots with their colours."""
    picture = drawing.picture
    images = [image.get_array().data for panel in picture.axes for image in panel.images]
    dots = [(line.get_xydata().tolist(), line.get_color()) for panel in picture.axes for line in panel.lines]
    return images, dots


def pixels(image):
    """An image (3, S, S) in [-1, 1] as a figure has it."""
    return ((image + 1) * 127.5).round().byte().permute(1, 2, 0)


def words(drawing):
    """All text of a figure of matplotlib."""
    return " ".join(text.get_text() for text in drawing.picture.findobj(Text))


def test_the_attention_figure_shows_the_maps_of_its_dots(run):
    view = AttentionView(classes="ring", seeds="4", queries="2,3; 15,0", layer=16)
    inspected = InspectedRun(run)
    images, dots = drawn(view.figure())
    seen = inspected.inspect(view.requests(inspected)[0])
    assert np.array_equal(images[0], pixels(seen.image))
    for heat, query in ((images[2], 2 * 16 + 3), (images[4], 15 * 16)):
        weights = seen.beta[query].view(8, 8).repeat_interleave(2, 0).repeat_interleave(2, 1) / 4  # spread over the pooled cell
        np.testing.assert_allclose(heat, weights, atol=1e-7)
    places = {(6.5, 4.5), (0.5, 30.5)}  # (column, row) of the positions' centres in pixels of the image, 2x2 of them each
    assert {tuple(xy[0]) for xy, _ in dots} == places and len({colour for _, colour in dots}) == 2 and len(dots) == 4


def test_few_far_values_do_not_flatten_a_chart():
    calm = [1 + k % 7 / 10 for k in range(100)]
    lines = lambda *values: Chart("", (Panel("loss", lines=(Line(tuple(range(len(values))), values),)),))  # noqa: E731
    (panel,) = lines(*calm, 900.0, None, -50.0).focused().panels
    assert panel.title == "loss (2 values outside)" and panel.y.range == pytest.approx((0.97, 1.63))
    for values in (calm, [*calm[:8], 900.0], [1.0] * 99 + [2.0]):  # nothing far, too few to tell, constant
        assert lines(*values).focused() == lines(*values)
    (panel,) = replace(lines(*calm, 1e9), panels=(replace(lines(*calm, 1e9).panels[0], y=Axis(log=True)),)).focused().panels
    assert panel.y.range[1] == pytest.approx(np.log10(1.6), abs=0.02)  # the exponents of a logarithmic axis


def test_bands_end_where_values_cannot_be(tiny):
    """Mean ± deviation of shares near 1 would end above 1."""
    runs = []
    for seed, share in enumerate((1.0, 1.0, 0.7)):
        run = recorded(tiny, f"s-seed={seed}", [1.0, 1.0], seed=seed)
        for step in (3, 4):
            run.append("history.jsonl", dict(step=step, images=8, seconds=1.0, saturated_real=share))
        runs.append(run)
    (panel,) = views.across_runs.curves(runs, keys="saturated_real").description.panels
    assert panel.bands[0].high == (1.0, 1.0) and panel.bands[0].low[0] == pytest.approx(0.9 - np.std([1, 1, 0.7], ddof=1))


def test_a_group_has_one_colour_in_all_figures(tiny):
    """Also where the groups before it have no scores."""
    runs = [recorded(tiny, f"c{k}", [1.0, 2.0], lr_d=lr) for k, lr in enumerate((1e-3, 2e-3))]
    scored(runs[1], 2, fid=3.0)
    plots = views.across_runs.curves(runs, keys="loss_d"), views.across_runs.scores(runs), views.across_runs.scatter(runs)
    colours = [{line.colour for line in plot.description.lines if line.name == "c1"} for plot in plots]
    assert colours[0] == colours[1] == colours[2] and len(colours[0]) == 1


def test_few_steps_have_whole_ticks(tiny):
    plot = views.across_runs.curves([recorded(tiny, "short", [1.0, 2.0, 3.0])], keys="loss_d")
    assert plot.figure.layout.xaxis.dtick == 1
    assert all(tick == round(tick) for tick in plot.picture.axes[0].get_xticks())


def test_zeros_that_a_logarithmic_axis_cannot_show_are_counted():
    rows = [dict(step=step, loss_d=1.0, grad_norm_d=norm, grad_norm_g=1.0) for step, norm in enumerate((1.0, 0.0, 0.0))]
    assert figures.curves("", rows).description.panels[-1].title == "gradient norms (dashed: largest; 2 zeros are not drawn)"


def test_notebook_figures_can_be_read_in_the_dark(run):
    layout = views.train.curves(run)._repr_mimebundle_()["application/vnd.plotly.v1+json"]["layout"]["template"]["layout"]
    assert layout["paper_bgcolor"] == layout["plot_bgcolor"] == "rgba(0, 0, 0, 0)"
    grey = [int(layout["font"]["color"][k : k + 2], 16) / 255 for k in (1, 3, 5)]
    luminance = np.dot([0.2126, 0.7152, 0.0722], [((v + 0.055) / 1.055) ** 2.4 for v in grey])
    assert min(1.05 / (luminance + 0.05), (luminance + 0.05) / (0.0056 + 0.05)) > 3.5  # contrast to white and to JupyterLab's dark


def test_only_positive_values_get_a_logarithmic_axis():
    panels = tuple(
        Panel(name, lines=(Line((0, 1, 2), y),)) for name, y in (("a", (1.0, 2.0, -1.0)), ("b", (-1.0, -2.0, 1.0)), ("c", (None,) * 3))
    )
    chart = Chart("", panels).logarithmic()
    assert [panel.y.log for panel in chart.panels] == [True, False, False]
    told = ["a (1 value of 0 or less is not drawn)", "b (not logarithmic: most values are 0 or less)", "c"]
    assert [panel.title for panel in chart.panels] == told


def test_a_line_has_a_gap_where_a_logarithmic_axis_has_no_place():
    """Drawn there, it would fall to the bottom of the axis, as if the value were small."""
    plot = figures.Plot(Chart("", (Panel("", y=Axis(log=True), lines=(Line((0, 1, 2), (1.0, 0.0, 2.0)),)),)))
    assert list(plot.figure.data[0].y) == [1.0, None, 2.0]
    assert np.isnan(plot.picture.axes[0].lines[0].get_ydata()).tolist() == [False, True, False]


def test_scores_say_which_values_are_better_and_what_was_published():
    known = dict(
        settings=asdict(PROTOCOLS["mmgeneration"]), extractor=dict(name="inception", sha256="x", reference=True),
        reference=dict(data="cifar10", fingerprint="x", size=32, n=50_000),
    )  # fmt: skip
    record = dict(step=4, protocol="p", scores=dict(fid=12.0)) | known
    (panel,) = figures.scores_of_run("", [record]).description.panels
    assert panel.y.title == "lower is better"
    assert [(line.name, line.y) for line in panel.lines[1:]] == [("mmgeneration, raw weights", (9.43, 9.43))]
    record["scores"] = {"is": 5.0, "unknown": 1.0}
    first, second = figures.scores_of_run("", [record]).description.panels
    assert first.y.title == "higher is better" and second.y.title == ""


@pytest.mark.slow
def test_a_figure_is_drawn_again_from_its_sidecar(run, tmp_path):
    seen = InspectedRun(run).inspect(InspectionRequest("G/attention.16", label=1, seed=2, gamma0=True))
    drawing = figures.attention_maps([replace(seen, queries=(17, 200))], "value_weighted")
    for ending in ("png", "svg", "pdf"):
        path = drawing.save(tmp_path / "new" / f"figure.{ending}")
        assert path.stat().st_size > 5000
        sidecar = path.with_name(path.name + ".json")
        again = figures.redraw(sidecar)
        for ours, theirs in zip(drawn(drawing)[0], drawn(again)[0], strict=True):
            assert np.array_equal(ours, theirs)
        assert drawn(again)[1] == drawn(drawing)[1]
        assert again.save(tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    kept = json.loads(sidecar.read_text())
    assert len(kept["git"]["commit"] or "x" * 40) == 40 and kept["versions"]["torch"]
    for fact in (f"{run.name}, step 4", "G, 16x16 (official)", "gamma", "value_weighted attention", "square, seed 2, sample 0"):
        assert fact in kept["figure"]["title"]
    assert len(sidecar.read_text()) < 20_000


@pytest.mark.slow
def test_a_figure_is_drawn_again_when_its_run_is_gone(run, tmp_path):
    figures_of_run = dict(
        curves=views.train.curves(run), maps=views.train.attention(run), through=AttentionView(run=run.name).through_training()
    )
    paths = {name: drawing.save(tmp_path / f"{name}.svg") for name, drawing in figures_of_run.items()}
    shutil.rmtree(run.path)
    for name, path in paths.items():
        again = figures.redraw(f"{path}.json")
        assert again.description == figures_of_run[name].description
        assert again.save(tmp_path / "again.svg").read_bytes() == path.read_bytes(), name


def test_a_dropped_image_is_in_the_sidecar(run, tmp_path):
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(stream, "PNG")
    inspected = InspectedRun(run)
    seen = inspected.inspect(InspectionRequest("D/attention.16", source="dropped", sample=inspected.drop("mine", stream.getvalue())))
    path = figures.attention_maps([replace(seen, queries=(0,))]).save(tmp_path / "figure.svg")
    assert np.array_equal(drawn(figures.redraw(f"{path}.json"))[0][0], pixels(seen.image))


@pytest.mark.parametrize("text", ["no json", "{}", '{"figure": "pie"}', "[1]"])
def test_what_is_no_sidecar_is_refused(tmp_path, text):
    (tmp_path / "figure.json").write_text(text)
    with pytest.raises(WorkbenchError, match="is not the sidecar of a figure"):
        figures.redraw(tmp_path / "figure.json")
    with pytest.raises(ParameterError, match=r"can be \.png, \.svg or \.pdf"):
        figures.Drawing(None).save(tmp_path / "figure.jpg")


def test_attention_through_the_training(run):
    images, _ = drawn(AttentionView(run=run.name).through_training())
    snapshots = [load_snapshot(run.attention_path(step)) for step in (0, 4)]
    assert np.array_equal(images[0], snapshots[0].images[0].permute(1, 2, 0))
    assert np.array_equal(images[3], snapshots[1].images[0].permute(1, 2, 0))
    assert not np.array_equal(images[2], images[5])


def test_a_table_and_its_file(tmp_path):
    rows = [dict(run="<a>", step=1000, value=0.123456), dict(run="b", step=2000, value=2.0)]
    shown = figures.table(rows, save=tmp_path / "new" / "table.csv")._repr_html_()
    assert "&lt;a&gt;" in shown and "1,000" in shown and "0.123<" in shown
    assert (tmp_path / "new" / "table.csv").read_text().splitlines() == ["run,step,value", "<a>,1000,0.123456", "b,2000,2.0"]
    assert figures.table([]) is None


@pytest.mark.slow
def test_diagnostics_hold_the_history_and_the_spectra(trained_once, tmp_path):
    run = trained_once(run="d-only", sn_g=False)
    plot = views.train.diagnostics(run)
    by_name = {(trace.legendgroup, trace.name): trace for trace in plot.figure.data}
    history, spectra = run.history(), run.spectra()
    assert list(by_name["margin of D", "real - fake"].y) == pytest.approx([row["d_real"] - row["d_fake"] for row in history], rel=1e-6)
    assert list(by_name["saturation of D", "fake"].y) == pytest.approx([row["saturated_fake"] for row in history], rel=1e-6)
    exact = {name: [row["layers"][name]["exact"][0] for row in spectra] for name in spectra[0]["layers"]}
    assert {name for panel, name in by_name if panel.startswith("weights of")} == set(exact)
    assert list(by_name["weights of G", "G/output"].y) == list(by_name["weights at work", "G/output"].y) == exact["G/output"]
    assert max(abs(value - 1) for value in by_name["weights at work", "D/linear"].y) < 1e-3
    assert opened(plot.png()).width >= 900
    assert [panel.get_yscale() for panel in plot.picture.axes] == ["linear", "linear", "log", "log", "log"]

    layers = views.train.singular_values(run, "D")
    assert [note.text for note in layers.figure.layout.annotations] == [name[2:] for name in exact if name[0] == "D"]
    assert list(layers.figure.data[0].y) == exact["D/blocks.16.conv1"] and {trace.name for trace in layers.figure.data} == {
        "largest", "second", "estimate"
    }  # fmt: skip
    assert "estimate" not in {trace.name for trace in views.train.singular_values(run).figure.data}
    assert opened(layers.png()).width >= 900
    paths = [made.save(tmp_path / name) for made, name in ((plot, "diagnostics.svg"), (layers, "layers.pdf"))]
    run.append("history.jsonl", run.history()[-1] | {"step": 6})
    run.append("spectra.jsonl", run.spectra()[-1] | {"step": 6})
    assert all(same(figures.redraw(f"{path}.json"), made) for path, made in zip(paths, (plot, layers), strict=True))


@pytest.mark.slow
def test_growth_of_several_runs(tiny, trained_once, tmp_path):
    runs = [trained_once(run="both"), trained_once(run="d-only", sn_g=False)]
    old = recorded(tiny, "old", [1.0], lr_d=0.01)
    plot = views.across_runs.growth([*runs, old])
    lines = {(trace.name, trace.yaxis): list(trace.y) for trace in plot.figure.data}
    assert {name for name, _ in lines} == {"both", "d-only"} and plot.figure.layout.yaxis.type == "log"
    for run in runs:
        layers = [row["layers"] for row in run.spectra()]
        assert lines[run.name, "y"] == [max(one["exact"][0] for name, one in row.items() if name[0] == "G") for row in layers]
    assert max(lines["both", "y2"]) < 1.3 < min(lines["d-only", "y2"])  # with spectral normalization G works with less
    assert opened(plot.png()).width >= 900
    path = plot.save(tmp_path / "growth.svg")
    for run in runs:
        run.append("spectra.jsonl", dict(step=5, layers={"G/linear": dict(exact=[9.0])}))
    assert same(figures.redraw(f"{path}.json"), plot) and not same(views.across_runs.growth(runs), plot)


def test_growth_of_seeds_has_a_geometric_mean(tiny):
    runs = [recorded(tiny, f"s{seed}", [1.0] * 3, seed=seed) for seed in range(2)]
    for run, values in zip(runs, ([1.0, 4.0], [9.0, 25.0]), strict=True):
        for step, value in zip((0, 3), values, strict=True):
            run.append("spectra.jsonl", dict(step=step, layers={"G/linear": dict(exact=[value]), "D/linear": dict(exact=[None])}))
    figure = views.across_runs.growth(runs, "images").figure
    first, second, mean, band = [trace for trace in figure.data if trace.yaxis == "y"]
    assert (list(first.y), list(second.y), list(first.x)) == ([1, 4], [9, 25], [0, 24])
    np.testing.assert_allclose(mean.y, [3, 10], rtol=1e-6)
    high, low = np.array(band.y).reshape(2, 2)
    deviations = [np.std(np.log(pair), ddof=1) for pair in ([1, 9], [4, 25])]
    np.testing.assert_allclose(np.log(high), np.log([3, 10]) + deviations, rtol=1e-6)
    np.testing.assert_allclose(np.log(low[::-1]), np.log([3, 10]) - deviations, rtol=1e-6)
    assert not any(len(trace.y) for trace in figure.data if trace.yaxis == "y3")  # D's values are not finite
    with pytest.raises(ParameterError, match="axis='days' is not one of"):
        views.across_runs.growth(runs, "days")


@pytest.mark.slow
def test_runs_from_before_diagnostics_have_figures_of_what_they_have(run):
    (run.path / "spectra.jsonl").unlink()
    old = [{k: v for k, v in row.items() if not k.startswith(("grad", "saturated"))} for row in run.history()]
    (run.path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in old))
    assert opened(views.train.diagnostics(run).png()).width >= 900
    with pytest.raises(WorkbenchError, match=r"has no spectra\.jsonl yet"):
        views.train.singular_values(run)
    with pytest.raises(ParameterError, match="network='E' is not one of G, D"):
        views.train.singular_values(run, "E")


@pytest.mark.parametrize("augment", ["none", "flip", "diffaug"])
def test_the_preview_shows_what_d_will_see(tiny, augment):
    config = tiny(augment=augment)
    picture = views.train.real_images(open_data(config), config)
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


@pytest.mark.slow
def test_summary_is_one_picture(run):
    picture = opened(views.train.summary_png(run))
    assert picture.height > opened(views.train.curves(run).png()).height


# ----------------------------------------------------------------------------------------- plots of several runs


def test_groups_have_a_mean_with_a_band_and_all_their_seeds(tiny):
    seeds = [recorded(tiny, f"s{k}", losses, seed=k) for k, losses in enumerate([[1, 2, 3, 9], [3, 4, 8], [5, 9, 1, 9]])]
    other = recorded(tiny, "other", [7, 7], lr_d=0.01)
    figure = views.across_runs.curves([*seeds, other], axis="hours").figure
    lines = [trace for trace in figure.data if trace.mode == "lines" and not trace.fill]
    assert [list(trace.y) for trace in lines] == [[1, 2, 3, 9], [3, 4, 8], [5, 9, 1, 9], [3, 5, 4], [7, 7]]
    np.testing.assert_allclose(lines[3].x, np.array([1, 2, 3]) * 90 / 3600, rtol=1e-6)
    (band,) = [trace for trace in figure.data if trace.fill]
    sd = np.std([[1, 2, 3], [3, 4, 8], [5, 9, 1]], axis=0, ddof=1)
    np.testing.assert_allclose(band.y, [*(np.array([3, 5, 4]) + sd), *(np.array([3, 5, 4]) - sd)[::-1]], rtol=1e-6)
    assert [trace.name for trace in figure.data if trace.showlegend is not False] == ["lr_d=0.0025 × 3 seeds", "lr_d=0.01"]
    assert {note.text for note in figure.layout.annotations} == {"hinge loss of D"}  # a learning rate that never changes is no curve


def test_curves_of_several_runs_draw_every_further_number(tiny):
    run = recorded(tiny, "one", [1.0, 2.0])
    run.append("history.jsonl", dict(step=3, images=24, seconds=3, loss_d=float("nan"), sigma_G_8=0.5, gamma_g16=0.1, words="x", parts=[1]))
    titles = [note.text for note in views.across_runs.curves([run]).figure.layout.annotations]
    assert titles == ["hinge loss of D", "gamma, G at 16x16", "sigma_G_8"]
    assert [note.text for note in views.across_runs.curves([run], keys="sigma*, lr_d").figure.layout.annotations] == ["sigma_G_8", "lr_d"]
    bundle = views.across_runs.curves([run])._repr_mimebundle_()
    json.dumps(bundle, allow_nan=False)
    with pytest.raises(WorkbenchError, match="no history has 'gama_\\*'"):
        views.across_runs.curves([run], keys="gama_*")
    with pytest.raises(ParameterError, match="axis='days' is not one of steps, images, hours"):
        views.across_runs.curves([run], axis="days")
    assert views.across_runs.curves([]).png()


def test_long_histories_are_thinned(tiny, monkeypatch):
    monkeypatch.setattr(figures.histories, "MOST_POINTS", 100)
    losses = [k if k != 111 else 999.0 for k in range(250)]
    figure = views.across_runs.curves([recorded(tiny, "long", losses)], keys="loss_d").figure
    y = list(figure.data[0].y)
    assert len(y) <= 100 and {0, 249, 999} <= set(y) and "ends and extremes of long curves are drawn" in figure.layout.title.text


def test_thinning_keeps_ends_and_extremes():
    rng = np.random.default_rng(0)
    values = rng.normal(size=100_000)
    values[[333, 70_001]] = 50, -50
    keep = charts.thin(values, 600)
    assert 300 <= len(keep) <= 600
    assert (keep[0], keep[-1]) == (0, 99_999)
    assert (values[keep].max(), values[keep].min()) == (50, -50)
    assert (np.diff(keep) > 0).all()


def test_a_thinned_curve_grows_without_flicker():
    values = np.random.default_rng(0).normal(size=5_000)
    before, after = (charts.thin(values[:n], 600) for n in (4_000, 4_700))
    assert set(before[before < 3_900]) == set(after[after < 3_900])


def test_short_curves_are_left_alone():
    assert len(charts.thin(np.arange(600.0), 600)) == 600


def test_smoothing_is_a_moving_average_without_bias_at_the_start():
    line = charts.Line((1, 2, 3, 4), (2.0, None, 4.0, 4.0))
    chart = charts.Chart("", (charts.Panel("", lines=(line,)),)).smoothed(0.5)
    assert chart.panels[0].lines[0].y == (2, None, pytest.approx(10 / 3, rel=1e-6), pytest.approx(26 / 7, rel=1e-6))


def same(a, b):
    """Whether two plotly figures show the same."""
    return a.figure.to_json() == b.figure.to_json()


@pytest.mark.slow
def test_plots_are_drawn_again_from_their_sidecars_though_the_runs_went_on(tiny, tmp_path):
    runs = [recorded(tiny, f"s{k}", [k, 2, 3], seed=k, lr_g=10.0 ** -(3 + k // 2)) for k in range(4)]
    for k, run in enumerate(runs):
        scored(run, 2, protocol("official"), fid=10 + k)
        scored(run, 3, protocol("official"), fid=k)
    plots = dict(
        one=views.train.curves(runs[0]), several=views.across_runs.curves(runs, "images"), scores=views.across_runs.scores(runs, "fid", axis="hours"),
        scatter=views.across_runs.scatter(runs, "fid", "lr_g", steps="2"),
    )  # fmt: skip
    saved = {
        name: plot.save(tmp_path / f"{name}.{ending}")
        for (name, plot), ending in zip(plots.items(), ["svg", "pdf", "png", "svg"], strict=True)
    }
    for run in runs:
        run.append("history.jsonl", dict(step=4, images=32, seconds=400, loss_d=8))
        scored(run, 4, protocol("official"), fid=99)
    for name, path in saved.items():
        again = figures.redraw(f"{path}.json")
        assert same(again, plots[name]), name
        assert again.save(tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), name
    assert not same(views.across_runs.curves(runs, "images"), plots["several"])


def test_vector_graphics_hold_lines_and_letters(tiny, tmp_path):
    runs = [recorded(tiny, f"s{k}", [1, 2, 3 + k], seed=k) for k in range(2)]
    svg = views.across_runs.curves(runs).save(tmp_path / "curves.svg").read_text()
    assert "<image" not in svg and svg.count("<path") > 20
    pdf = views.across_runs.curves(runs).save(tmp_path / "curves.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and b"/Type3" not in pdf and b"CreationDate" not in pdf


def test_scatter_shows_every_run_with_mean_and_deviation(tiny):
    runs = [
        recorded(tiny, f"s{k}-{rate}", [1], seed=k, lr_d=rate, attention_g=site)
        for rate, site in ((1e-4, "16"), (1e-2, "none"))
        for k in (0, 1)
    ]
    for run, value in zip(runs, (1.0, 3.0, 10.0, 20.0), strict=True):
        scored(run, 1, protocol("official"), fid=value)
    figure = views.across_runs.scatter(runs).figure
    points = [trace for trace in figure.data if trace.error_y.array is None]
    means = [trace for trace in figure.data if trace.error_y.array is not None]
    assert [(list(t.x), list(t.y)) for t in points[:2]] == [([1e-4, 1e-4], [1, 3]), ([1e-2, 1e-2], [10, 20])] or \
        [(list(t.x), list(t.y)) for t in points[2:]] == [([1e-4, 1e-4], [1, 3]), ([1e-2, 1e-2], [10, 20])]  # fmt: skip
    assert [(t.y[0], t.error_y.array[0]) for t in means[:2]] == [(2, pytest.approx(2**0.5)), (15, pytest.approx(50**0.5))]
    kinds = {figure.layout[axis].title.text: figure.layout[axis] for axis in ("xaxis", "xaxis2")}
    assert kinds["lr_d"].type == "log" and list(kinds["attention_g"].ticktext) == ["none", "16"]
    assert opened(views.across_runs.scatter(runs).png()).width >= 900
    with pytest.raises(WorkbenchError, match="there is no parameter 'lrd'; did you mean 'lr_d'"):
        views.across_runs.scatter(runs, against="lrd")
    scored(runs[0], 2, protocol("official", n=70), fid=1)
    with pytest.raises(WorkbenchError, match="cannot be compared"):
        views.across_runs.scatter(runs)
    assert "cannot be compared" in views.across_runs.scatter(runs, across_protocols=True).figure.layout.title.text


@pytest.mark.slow
def test_rows_of_samples_are_of_equal_latents_and_drawn_again(trained_once, tmp_path):
    runs = [trained_once(run="both"), trained_once(run="d-only", sn_g=False)]
    drawing = views.across_runs.sample_rows([(f"row {k}", run, 4) for k, run in enumerate(runs)], seed=5, columns=3)
    shown = drawn(drawing)[0]
    z, y = sampling.latents(3, runs[0].config.z_dim, 5), torch.arange(3)
    images = torch.cat([sampling.images(run.generator(4), z, y) for run in runs])
    for ours, image in zip(shown, images, strict=True):
        assert np.array_equal(ours, pixels(image))
    again = figures.redraw(f"{drawing.save(tmp_path / 'rows.svg')}.json")
    assert all(np.array_equal(a, b) for a, b in zip(shown, drawn(again)[0], strict=True))
    assert views.across_runs.sample_rows([]) is None
    with_a_reason = views.across_runs.sample_rows([("row", runs[0], 3), ("other", runs[1], 4)], columns=3)
    assert "no checkpoint at step 3" in " ".join(words(with_a_reason).split()) and len(drawn(with_a_reason)[0]) == 3
    with pytest.raises(ParameterError, match="columns=1000000000 is out of range"):
        views.across_runs.sample_rows([("row", runs[0], 4)], columns=10**9)


@pytest.mark.slow
def test_attention_through_training_is_drawn_again(run, tmp_path):
    drawing = AttentionView(run=run.name).through_training()
    again = figures.redraw(f"{drawing.save(tmp_path / 'through.pdf')}.json")
    assert all(np.array_equal(a, b) for a, b in zip(drawn(drawing)[0], drawn(again)[0], strict=True))
    assert [panel.get_title() for panel in again.picture.axes] == ["step 0", "", "step 4", ""]


# ------------------------------------------------------------------------------------------------ compositions


@pytest.mark.slow
def test_figures_are_composed_with_letters_and_captions_and_one_sidecar(run, tmp_path):
    parts = views.train.curves(run), views.train.attention(run), views.train.diagnostics(run)
    figure = figures.compose(parts, ["The curves.", "Where $G$ looks.", "A caption so long that it needs more than one line " * 3])
    shown = words(figure)
    assert all(text in shown for text in ("(a) The curves.", "(b) Where $G$ looks.", "(c) A caption", "hinge losses", "margin of D"))
    assert run.name not in shown  # the captions stand for the titles
    assert figure.picture.get_size_inches()[0] == pytest.approx(6.9)
    path = figure.save(tmp_path / "new" / "figure.pdf")
    assert sorted(file.name for file in path.parent.iterdir()) == ["figure.pdf", "figure.pdf.json"]
    assert figures.redraw(path.parent / "figure.pdf.json").save(tmp_path / "again" / "figure.pdf").read_bytes() == path.read_bytes()


def test_parts_of_a_composition_stay_inside_their_places(run):
    """Of one column of a two-column paper: no text or axes reaches over the edge or into a neighbour."""
    plot = views.train.curves(run)
    for columns, width in ((1, 3.3), (2, 6.9)):
        picture = figures.compose([plot] * columns, ["one", "two"][:columns], columns, width).picture
        picture.draw_without_rendering()
        for k, axes in enumerate(sorted(picture.axes, key=lambda axes: axes.get_position().x0)):
            box = axes.get_tightbbox().transformed(picture.transFigure.inverted())
            assert box.x0 > -0.005 and box.x1 < 1.005, k


def test_the_protocol_is_in_the_caption_once():
    scores = figures.scores_of_run("", [dict(step=step, scores={"fd": 2.0}, protocol="n=70") for step in (10, 20)])
    shown = [text.get_text() for text in figures.compose([scores, scores], ["Scores", "The same."]).picture.findobj(Text)]
    assert "(a) Scores. n=70." in shown and "(b) The same." in shown


def test_a_title_leaves_room_for_the_legend_on_its_line():
    """In a narrow place; what the title says in brackets stands below."""
    rows = [dict(step=step, loss_d=1.0, grad_norm_d=norm, grad_norm_g=1.0) for step, norm in enumerate((1.0, 0.0, 2.0))]
    picture = figures.compose([figures.curves("", rows)], ["Curves."], 1, 3.3).picture
    picture.draw_without_rendering()
    axes = picture.axes[-1]
    (title,) = [text for text in picture.findobj(Text) if text.get_text() == "gradient norms"]
    assert not title.get_window_extent().overlaps(axes.get_legend().get_window_extent())
    assert axes.get_xlabel() == "G step · dashed: largest; 1 zero is not drawn"


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda plot: figures.compose([plot], []), "1 part with 0 captions"),
        (lambda plot: figures.compose([plot], ["a"], width=0.1), "cannot be drawn"),
        (lambda plot: figures.compose([figures.Note("no samples yet")], ["a"]), "no samples yet"),
        (lambda plot: figures.compose([figures.compose([plot], ["a"])], ["b"]), "cannot be a part of another one"),
    ],
)
def test_what_cannot_be_composed(make, message):
    with pytest.raises(WorkbenchError, match=message):
        make(figures.Plot(Chart("", (Panel("a"),))))


# ----------------------------------------------------------------------------------------------------- tables


@pytest.mark.parametrize(("values", "text"), [
    ([18.431, 18.871], "18.65 ± 0.31"), ([100.0, 140.0, 120.0], "120 ± 20"), ([12345.0, 12945.0], "12640 ± 420"), ([0.5, 0.5], "0.5 ± 0"),
    ([0.00012, 0.00014], "0.000130 ± 0.000014"), ([18.123456], "18.123"), ([float("nan"), 1.0], "nan"),
])  # fmt: skip
def test_numbers_have_the_digits_that_their_deviation_allows(values, text):
    measured = figures.Measured.of(values)
    assert str(measured) == text and measured.n == len(values)
    if len(values) > 1 and np.isfinite(values).all():
        assert (measured.mean, measured.sd) == (pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))


NASTY = r"50% of a_b & {c} #1 $x$ ~^ \ <γ>"


def test_tables_as_latex(tmp_path):
    rows = [
        {"runs": NASTY, "n": 1234, "f_d": figures.Measured.of([1.0, 2.0], "about"), "rate": 1e-5, "on": True},
        {"runs": "× 3", "n": 5, "f_d": figures.Measured(-3.0, None, 2, show_n=True), "rate": None, "on": False},
    ]
    path = figures.Table(rows, ("Protocol: 5% & more.",)).latex(tmp_path / "new" / "table.tex", "A_b", "tab:one_two")
    align, ((head), one, two) = parsed(path.read_text())
    assert align == "lrrrl" and head == ["runs", "n", r"f\_d", "rate", "on"]
    escaped = r"50\% of a\_b \& \{c\} \#1 \$x\$ \textasciitilde{}\textasciicircum{} \textbackslash{} \textless{}$\gamma$\textgreater{}"
    assert one == [escaped, "$1{,}234$", r"$1.50 \pm 0.71$", r"$1 \cdot 10^{-5}$", "true"]
    assert two == [r"$\times$ 3", "$5$", "$-3$ (n=2)", "", "false"]
    assert r"\caption{A\_b. Protocol: 5\% \& more.}" in path.read_text() and r"\label{tab:one_two}" in path.read_text()


@pytest.mark.parametrize("broken", [("\\_", "_"), ("\\end{tabular}", ""), (" & $5$", ""), ("\\bottomrule", "\\hline"), ("$5$", "$5")])
def test_the_parser_catches_what_would_not_compile(tmp_path, broken):
    path = figures.Table([{"a_b": "x", "n": 5, "m": 1}]).latex(tmp_path / "table.tex")
    parsed(path.read_text())
    with pytest.raises((AssertionError, ValueError)):
        parsed(path.read_text().replace(*broken))


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="there is no pdflatex")
def test_tables_compile(tmp_path):
    figures.Table([{"a_b": NASTY, "n": figures.Measured.of([1.0, 2.0])}], ("± × · … – γ",)).latex(tmp_path / "table.tex", NASTY, "tab:a")
    (tmp_path / "paper.tex").write_text(r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{table}\end{document}")
    done = subprocess.run(["pdflatex", "-halt-on-error", "paper"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-500:]


def test_a_table_as_csv_keeps_all_digits_and_the_deviations(tmp_path):
    rows = [dict(runs="a, b", fid=figures.Measured(1 / 3, 0.1, 3), steps=1000), dict(runs="c", fid=figures.Measured(2.0), extra=None)]
    with open(figures.Table(rows).csv(tmp_path / "table.csv"), newline="") as file:
        one, two = csv.DictReader(file)
    assert one == {"runs": "a, b", "fid": repr(1 / 3), "fid sd": "0.1", "fid n": "3", "steps": "1000", "extra": ""}
    assert (two["fid"], two["fid sd"], two["fid n"], two["steps"]) == ("2.0", "", "1", "")


def test_a_table_as_text():
    rows = [dict(run="a", fd=Measured(1.234, 0.1, 3), n=10), dict(run="bbbb", n=2000)]
    lines = ["run            fd      n", "a     1.23 ± 0.10     10", "bbbb               2,000", "a note"]
    assert repr(figures.Table(rows, ("a note",))).splitlines() == lines


def test_a_transposed_table():
    table = figures.Table([dict(runs="a", n=1, fid=2.0), dict(runs="b", n=3)], ("note",)).transposed("score")
    assert table.rows == [{"score": "n", "a": 1, "b": 3}, {"score": "fid", "a": 2.0, "b": None}] and table.notes == ("note",)


# ----------------------------------------------------------------------------------------------------- scores


def test_scores_over_steps_with_published_numbers_where_they_compare(run):
    official = protocol("official")
    for step in (200, 100):
        record = scored(run, step, official, fid=step / 10, kid=0.5)
    plot = views.across_runs.scores(run)
    ours, published = plot.figure.data[0], {trace.name: trace.y[0] for trace in plot.figure.data if trace.line.dash}
    assert (list(ours.x), list(ours.y)) == ([100, 200], [10, 20]) and published["SAGAN as reported"] == 18.65
    assert "inception@6726825d" in plot.figure.layout.title.subtitle.text  # the protocol, once
    assert plot.figure.layout.yaxis.title.text == "lower is better"
    assert "n=50,000" in ours.hovertemplate
    assert opened(plot.png()).width >= 900
    scored(run, 300, official, data="cats", fid=3)
    assert not [t for t in views.across_runs.scores(run, "fid", like=run.evaluations()[-1]).figure.data if t.line.dash]
    assert list(views.across_runs.scores(run, "fid", like=record).figure.data[0].x) == [100, 200]


def test_scores_of_different_protocols_are_shown_together_only_when_asked_for(run):
    scored(run, 100, protocol("official"), fid=10)
    scored(run, 100, protocol("official", n=5000), fid=15)
    with pytest.raises(WorkbenchError, match=r"cannot be compared.*n: 50000 and 5000.*across_protocols=True"):
        views.across_runs.scores(run)
    plot = views.across_runs.scores(run, across_protocols=True)
    assert "different protocols" in plot.figure.layout.title.text
    assert {"protocol 1", "protocol 2"} <= {trace.name for trace in plot.figure.data}
    assert plot.description.notes == ("protocol 1: official; inception@6726825d", "protocol 2: official (but n=5000); inception@6726825d")
    with pytest.raises(WorkbenchError, match="there is no score 'fidd' yet; did you mean 'fid'"):
        views.across_runs.scores(run, "fidd")


def test_several_runs_side_by_side(run, trained_once):
    other = trained_once(run="both")
    for owner in (run, other):
        scored(owner, 100, protocol("official"), fid=10)
    assert {trace.name for trace in views.across_runs.scores([run, other], "fid").figure.data if not trace.line.dash} == {
        group.label for group in groups.group([run, other])
    }
    assert views.across_runs.scores([]).png()  # nothing to show is no error


def test_every_number_of_the_table_carries_its_protocol(run):
    records = [scored(run, 100, protocol("official"), fid=10.123456, kid=0.5), scored(run, 200, protocol("official", n=70), fid=9)]
    table = figures.score_table(records)._repr_html_()
    assert table.count("<tr>") == 3 and "10.123" in table and "0.500 ± 0.010" in table
    numbers = [cell for cell in table.split("<td ")[1:] if "right" in cell]
    assert len(numbers) == 3 and all(cell.startswith('title="official') for cell in numbers)
    assert "n=70" in numbers[1] and "n=70" not in numbers[0] and "imagenet at 128x128" in numbers[0]


def test_strips_show_images_unblurred():
    image = torch.zeros(3, 3, 8, 8)
    image[:, 0], image[:, 1:] = 1, -1  # red
    picture = figures.strips([("one", image), ("two", image[:1])], "title")
    shown = np.asarray(opened(picture.png(120)).convert("RGB")).reshape(-1, 3)
    assert ((shown == (255, 0, 0)).all(1)).sum() > 4 * 60**2
    assert figures.strips([], "nothing") is None


# ------------------------------------------------------------------------------------------------------- colours

VISIONS = dict(  # linear RGB as seen without a kind of cones: Machado, Oliveira and Fernandes (2009), severity 1
    normal=np.eye(3),
    protanope=[[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    deuteranope=[[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
)


def smallest_difference(colours, vision="normal"):
    """The smallest distance of two colours in Oklab, where black and white are 100 apart."""
    rgb = np.array([[int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)] for colour in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ np.transpose(VISIONS[vision])
    cones = [[0.41222147, 0.53633254, 0.05144599], [0.2119035, 0.68069955, 0.10739696], [0.08830246, 0.28171884, 0.62997870]]
    axes = [[0.21045426, 0.79361779, -0.00407205], [1.97799850, -2.42859221, 0.45059371], [0.02590404, 0.78277177, -0.80867577]]
    lab = 100 * np.cbrt(linear.clip(0, 1) @ np.transpose(cones)) @ np.transpose(axes)
    return min(np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2))


@pytest.mark.parametrize("vision", VISIONS)
def test_colours_of_groups_can_be_told_apart_by_all_readers(vision):
    assert smallest_difference(charts.colours(6), vision) > 8
    assert smallest_difference(charts.colours(14), vision) > 8
    assert smallest_difference([legible(colour, DARKEST, 1.0) for colour in charts.colours(8)], vision) > 8  # in a notebook of any theme
    assert smallest_difference(["#000000", "#ffffff"]) == pytest.approx(100, abs=0.1)
    usual = [
        f"#{value:06x}" for value in (0x1F77B4, 0xFF7F0E, 0x2CA02C, 0xD62728, 0x9467BD, 0x8C564B, 0xE377C2, 0x7F7F7F, 0xBCBD22, 0x17BECF)
    ]
    assert vision == "normal" or smallest_difference(usual, vision) < 5  # matplotlib's ten, which the measure refuses


def test_no_group_has_the_colour_of_d_g_real_or_fake():
    reserved = [charts.OF_D, charts.OF_G, charts.OF_REAL, charts.OF_FAKE]
    assert all(smallest_difference([colour, other]) > 12 for colour in charts.colours(14) for other in reserved)
    history = [dict(step=step, loss_d=1.0, loss_g=1.0, d_real=1.0, d_fake=0.0) for step in range(3)]
    overlaid = figures.curves("a", history, others=dict(b=history, c=history)).description.lines
    groups_of = figures.curves_by_group([figures.RunRecords(name, name, history) for name in "abc"]).description.lines
    by_name = [{line.name: line.colour for line in lines} for lines in (overlaid, groups_of)]
    assert by_name[0] == by_name[1] and not set(by_name[0].values()) & set(reserved)  # the dashboard's overlay, and `compare`


def test_a_group_keeps_its_colour_beside_scores_of_other_protocols():
    def points(*protocols):
        return [figures.ScorePoint(g, g, 1, 2.0, p, 1.0) for g in "ab" for p in protocols]

    one, two = (
        figures.scores(dict(fd=points(*protocols)), "steps", "", "ab").description.lines for protocols in (("n=5",), ("n=5", "n=9"))
    )
    assert [line.colour for line in one] == [line.colour for line in two if line.about.endswith("n=5")]
    assert len({line.colour for line in two}) == 4
