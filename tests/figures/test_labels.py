"""Names at the ends of lines: they do not overlap, stay inside, and are where their lines end."""

import itertools

import numpy as np
import pytest
from lab import chromium
from scipy.optimize import minimize

from workbench import figures
from workbench.figures import labels, print
from workbench.figures.charts import DARK, Axis, Chart, Line, Panel, colours
from workbench.figures.figure import Plot, compose
from workbench.figures.labels import ends, labelled, legible, shortened, spread, with_room, y_range

X = tuple(float(k) for k in range(0, 2000, 50))


def crowded(count, log=False, **settings):
    """A chart of lines whose ends are nearly equal, with long names."""
    rng = np.random.default_rng(0)
    y = [tuple((3 + 1e-4 * k + 0.5 * rng.random(len(X)) * np.linspace(1, 0, len(X))).tolist()) for k in range(count)]
    lines = tuple(
        Line(X, of_line, f"lr_d {k}e-4 · attention_g {8 * k}", c) for k, (of_line, c) in enumerate(zip(y, colours(count), strict=True))
    )
    return Chart(
        "Title", tuple(Panel(title, Axis("G step"), Axis("loss", log=log), lines) for title in ("one", "two", "three")), **settings
    )


def boxes(picture):
    """The boxes of the names of lines, and those of all other texts, in pixels."""
    picture.canvas.draw()
    names, others = [], []
    for text in picture.findobj(lambda artist: hasattr(artist, "get_text") and artist.get_text().strip() and artist.get_visible()):
        (names if text.get_text().startswith("lr_d") and text.get_fontsize() == print.LABEL else others).append(text.get_window_extent())
    return names, others


def overlaps(first, second):
    return [(a, b) for a, b in zip(first, second, strict=True) if a.overlaps(b)]


def all_overlaps(names, others):
    pairs = [*itertools.combinations(names, 2), *itertools.product(names, others)]
    return overlaps(*zip(*pairs, strict=True))


@pytest.mark.parametrize(("picture", "log", "count"), [
    (Plot, False, 48), (Plot, True, 48),
    (lambda chart: compose([Plot(chart)] * 2, ["One.", "Two."]), False, 96),  # both columns of a paper
    (lambda chart: compose([Plot(chart)], ["One."], columns=1, width=3.3), False, 48),  # one column
])  # fmt: skip
def test_sixteen_names_do_not_overlap_and_stay_inside(picture, log, count, monkeypatch):
    drawing = picture(crowded(16, log))
    figure = drawing.picture
    names, others = boxes(figure)
    assert len(names) == count
    assert all_overlaps(names, others) == []
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1 for box in names)
    axes = [panel.get_window_extent() for panel in figure.axes]
    assert overlaps(*zip(*itertools.product(names, axes), strict=True)) == []

    monkeypatch.setattr(print, "spread", lambda wanted, low, high: np.asarray(wanted))  # planted: every name at the end of its line
    assert all_overlaps(*boxes(drawing.picture)) != []


def test_names_are_at_the_ends_of_their_lines():
    """Lines far apart: each name at the height of the last point, in the colour of the line."""
    lines = tuple(Line(X, tuple(k + 0 * x for x in X), f"lr_d {k}", c) for k, c in enumerate(colours(8)))
    figure = Plot(Chart("", (Panel("", lines=lines),), columns=1)).picture
    figure.canvas.draw()
    (axes,) = figure.axes
    for text in axes.texts:
        k = int(text.get_text().split()[1])
        box = text.get_window_extent()
        assert (box.y0 + box.y1) / 2 == pytest.approx(axes.transData.transform((0, k))[1], abs=2.5)
        assert text.get_color() == legible(colours(8)[k])


def test_few_names_have_a_legend_and_so_have_too_many():
    for count, where in ((6, False), (7, True), (40, True), (41, False)):
        chart = crowded(count)
        assert labelled(chart) == [where] * 3
        shown = [trace for trace in Plot(chart).figure.data if trace.showlegend]
        assert len(shown) == (0 if where else count)
        assert (with_room(chart) == chart) != where
    assert not Plot(crowded(7)).picture.legends and Plot(crowded(6)).picture.legends
    chart = crowded(4, legend="panels")  # each panel has a legend of its own: four entries
    assert labelled(chart) == [False] * 3


def test_what_belongs_to_no_group_stays_in_the_legend():
    chart = crowded(9)
    mark = Line((X[-1],), (3.2,), "mean", DARK, "markers")
    chart = Chart("", tuple(Panel(panel.title, lines=(*panel.lines, mark)) for panel in chart.panels))
    assert [end.name for end in ends(chart.panels[0]) if end.name == "mean"] == []
    (legend,) = Plot(chart).picture.legends
    assert [text.get_text() for text in legend.get_texts()] == ["mean"]
    assert [trace.name for trace in Plot(chart).figure.data if trace.showlegend] == ["mean"]


@pytest.mark.parametrize("seed", range(5))
def test_spread_is_the_least_squares_solution(seed):
    rng = np.random.default_rng(seed)
    wanted, low, high, step = np.sort(rng.uniform(0, 100, 7)), 0.0, 110.0, 12.0
    places = spread(wanted, low, high, step)
    assert np.diff(places).min() >= step - 1e-9 and places[0] >= low + step / 2 - 1e-9 and places[-1] <= high - step / 2 + 1e-9
    apart = [dict(type="ineq", fun=lambda x, k=k: x[k + 1] - x[k] - step) for k in range(6)]
    reference = minimize(
        lambda x: ((x - wanted) ** 2).sum(), np.linspace(10, 100, 7), bounds=[(6, 104)] * 7, constraints=apart, method="SLSQP"
    )
    assert ((places - wanted) ** 2).sum() == pytest.approx(reference.fun, rel=1e-5, abs=1e-6)


def test_spread_leaves_what_has_room_and_fits_what_has_not():
    assert spread([20, 50, 80], 0, 100).tolist() == [20, 50, 80]
    assert spread([50, 50], 0, 100, 10).tolist() == [45, 55]
    assert spread([50] * 20, 0, 100, 10).tolist() == pytest.approx(np.arange(2.5, 100, 5))
    assert spread([-500], 0, 100, 10).tolist() == [5]


def test_long_names_keep_their_ends_and_are_whole_elsewhere():
    assert shortened("attention at 16", 100, len) == "attention at 16"
    assert shortened("attention at 16", 9, len) == "atte…t 16" and len(shortened("a" * 500, 20, len)) == 20
    long = [f"attention_site at {k}, learning rate of D {k}e-4 and of G, spectral norm" for k in range(9)]
    plot = Plot(
        Chart("", (Panel("", lines=tuple(Line(X, tuple(k + x for x in X), name, DARK[:-1] + "3") for k, name in enumerate(long))),))
    )
    full = {note.hovertext for note in plot.figure.layout.annotations if note.showarrow}
    assert full == set(long) and long[3] in str(figures.plain.to_plain(plot.description))
    assert all("…" in note.text and len(note.text) < len(long[0]) for note in plot.figure.layout.annotations if note.showarrow)


def test_the_range_of_an_axis_is_that_of_all_it_shows():
    lines = (Line((0.0, 1.0), (1.0, None)), Line((0.0,), (5.0,), low=(2.0,), high=(4.0,)))
    assert y_range(Panel("", lines=lines)) == pytest.approx((1 - 0.4, 9 + 0.4))
    assert y_range(Panel("", y=Axis(log=True), lines=(Line((0.0, 1.0, 2.0), (0.0, 1.0, 100.0)),))) == pytest.approx((-0.1, 2.1))
    assert y_range(Panel("", y=Axis(range=(3.0, 1.0)))) == (1, 3) and y_range(Panel("", lines=(Line((0.0,), (2.0,)),))) == (1.5, 2.5)


def test_colours_of_names_are_legible_on_white_and_on_black():
    for colour in (*colours(40), "gray", "#ffff00", "#000080"):
        red, green, blue = (int(legible(colour)[k : k + 2], 16) / 255 for k in (1, 3, 5))
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (red, green, blue)]
        luminance = np.dot(linear, (0.2126, 0.7152, 0.0722))
        assert 1.05 / (luminance + 0.05) > 2.8 and (luminance + 0.05) / 0.0556 > 2.8  # contrast with white, and with #111
    assert legible("#1f77b4") == "#1f77b4"


def test_names_below_a_panel_do_not_overlap():
    arms = [figures.Arm(f"attention at {k}", ["a"], [figures.ScorePoint("", "a", 9, float(k), "p", 9.0)], [{}], 9) for k in range(9)]
    for plot in (figures.experiments({"site": arms}, "fid"), compose([figures.experiments({"site": arms}, "fid")], ["."], width=6.9)):
        figure = plot.picture
        figure.canvas.draw()
        texts = [tick for tick in figure.axes[0].get_xticklabels() if tick.get_text()]
        assert len(texts) == 9 and {text.get_rotation() for text in texts} == {40}
        pitch = texts[1].get_window_extent().x1 - texts[0].get_window_extent().x1
        assert pitch * np.sin(np.radians(40)) > 8 * figure.dpi / 72  # lines of text that lie beside each other
        assert all(text.get_window_extent().y0 >= 0 and text.get_window_extent().x0 >= 0 for text in texts)


@pytest.mark.slow
def test_chromium_shows_plotly_s_names_apart_and_inside(tmp_path):
    plot = Plot(crowded(16))
    plot.figure.write_html(tmp_path / "chart.html")
    with chromium() as browser:
        if not browser:
            pytest.skip("needs Chromium and playwright")
        page = browser.new_page(viewport=dict(width=1000, height=900))
        page.goto((tmp_path / "chart.html").as_uri())
        page.locator(".annotation-text").first.wait_for()
        rectangles = "all => all.map(node => { const {x, y, right, bottom} = node.getBoundingClientRect(); return [x, y, right, bottom]; })"
        notes = page.locator(".annotation-text")
        is_name = [text.startswith("lr_d") for text in notes.all_text_contents()]
        names = np.array(notes.evaluate_all(rectangles))[is_name]
        others = np.array(page.locator(".xtick text, .ytick text, .xtitle, .ytitle, .updatemenu-button").evaluate_all(rectangles))
        svg = page.locator(".main-svg").first.bounding_box()
    assert len(names) == 48 and names[:, 2].max() <= svg["x"] + svg["width"] and names[:, 1].min() >= svg["y"]

    def overlap(a, b):
        return a[0] < b[2] - 1 and b[0] < a[2] - 1 and a[1] < b[3] - 1.5 and b[1] < a[3] - 1.5

    assert not [1 for a, b in itertools.combinations(names, 2) if overlap(a, b)]
    assert not [1 for a, b in itertools.product(names, others) if overlap(a, b)]


def test_a_label_is_no_taller_than_its_line():
    assert print.LABEL * 100 / 72 < labels.LINE
