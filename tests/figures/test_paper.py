"""Figures as files for a two-column paper: widths, sizes of type, captions; nothing overlaps or is cut."""

import itertools
import re

import pytest
import torch
from matplotlib.text import Text

from workbench import figures
from workbench.figures.charts import COLUMN, PAGE, Axis, Chart, Panel
from workbench.figures.figure import Plot
from workbench.figures.paper import TALLEST

PROTOCOLS = [f"workbench (but n={n}, reference_n=5000): n={n}, against 5,000 real images, EMA weights; twins@3d2861b8" for n in (500, 300)]
SCORES = ("cs_10splits_twins@3d2861b8", "fd_twins@3d2861b8", "intra_fd_n50_twins@3d2861b8", "density_twins@3d2861b8")
HISTORY = [dict(step=k, loss_d=1.0 + k % 3, loss_g=0.5, d_real=1.0, d_fake=-1.0, saturated_real=0.5, grad_norm_d=2.0, grad_norm_d_max=9.0,
                gamma_g16=0.01 * k) for k in range(0, 4000, 100)]  # fmt: skip
LAYER = dict(exact=[1.9, 0.7], estimate=1.8)
SPECTRA = [dict(step=k, layers={"G/block": LAYER, "D/block": LAYER}) for k in range(3)]
RUNS = [figures.RunRecords(f"run {k}", f"run {k}", HISTORY, SPECTRA) for k in range(3)]
DISTANCES = [dict(arm=f"feat{k}", run="a", distance=16.0 + k) | dict.fromkeys(SCORES, 1.0) for k in range(3)]


def points(protocols):
    return [figures.ScorePoint(f"run {k}", f"run {k}", step, k + 0.9, p, step) for k in range(3) for step in (500, 4000) for p in protocols]


def arms(count):
    return [
        figures.Arm(f"attention at {k}", ["a", "b"], [figures.ScorePoint("", run, 9, k + 1.0, PROTOCOLS[0], 9.0) for run in "ab"], [{3: 1.0}] * 2, 9)
        for k in range(count)
    ]  # fmt: skip


FIGURES = dict(
    curves=(lambda: figures.curves("twins32", HISTORY), PAGE),
    curves_by_group=(lambda: figures.curves_by_group(RUNS, keys="loss_d,saturated_real,grad_norm_*,gamma_*"), PAGE),
    one_column=(lambda: figures.curves_by_group(RUNS, keys="loss_d"), COLUMN),
    diagnostics=(lambda: figures.diagnostics("twins32", HISTORY, SPECTRA), PAGE),
    empty=(lambda: figures.diagnostics("twins32", [], []), PAGE),
    growth=(lambda: figures.growth(RUNS), PAGE),
    singular_values=(lambda: figures.singular_values("twins32", SPECTRA), COLUMN),
    scores=(lambda: figures.scores(dict.fromkeys(SCORES, points(PROTOCOLS[:1])), "steps", "3 runs", ["run 0", "run 1", "run 2"]), PAGE),
    protocols=(lambda: figures.scores(dict.fromkeys(SCORES, points(PROTOCOLS)), "steps", "3 runs", ["run 0", "run 1", "run 2"]), PAGE),
    experiments=(lambda: figures.experiments(dict(attention_site=arms(3), ttur=arms(9)), "fd_twins@3d2861b8"), PAGE),
    long_range=(lambda: figures.long_range(DISTANCES, dict.fromkeys(SCORES[:2], "rank correlation +0.45, 95 % interval [-0.3, +0.95]"), "arm"), PAGE),
    long_title=(lambda: Plot(Chart("", (Panel("a" * 80, Axis("x " * 25), Axis("shift of the hue (1: to the source's)")),))), COLUMN),
    strips=(lambda: figures.strips([("tiny, seed 0\nstep 40", torch.zeros(8, 3, 32, 32))] * 3, "latents 0 to 7"), PAGE),
    few=(lambda: figures.strips([("", torch.zeros(1, 3, 32, 32))], "one"), COLUMN),
)  # fmt: skip


def in_view(text):
    """Whether it is no tick outside of its axis, which is not drawn."""
    for axes in text.figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            for tick in (*axis.majorTicks, *axis.minorTicks):
                if text in (tick.label1, tick.label2):
                    low, high = sorted(axis.get_view_interval())
                    return axes.axison and tick.get_visible() and low <= tick.get_loc() <= high
    return True


@pytest.mark.parametrize("name", FIGURES)
def test_a_file_has_the_width_and_type_of_a_two_column_paper(name, tmp_path):
    make, width = FIGURES[name]
    drawing = make()
    box = re.search(rb"/MediaBox \[([^\]]*)\]", drawing.save(tmp_path / "figure.pdf").read_bytes())[1].split()
    assert float(box[2]) == pytest.approx(72 * width)
    assert f'width="{72 * width:g}pt"' in drawing.save(tmp_path / "figure.svg").read_text()
    (figure,) = drawing.printed
    figure.draw_without_rendering()
    shown = [text for text in set(figure.findobj(Text)) if text.get_text().strip() and text.get_visible() and in_view(text)]
    assert {text.get_fontsize() for text in shown} <= {6, 7, 7.5, 8, 9}
    boxes = {text: text.get_window_extent() for text in shown}
    assert [
        text.get_text() for text, b in boxes.items() if min(b.x0, b.y0) < 0 or b.x1 > figure.bbox.x1 + 1 or b.y1 > figure.bbox.y1 + 1
    ] == []
    panels = [(axes, axes.get_window_extent()) for axes in figure.axes if axes.axison]
    assert [text.get_text() for text, b in boxes.items() for axes, of_axes in panels if text.axes is not axes and b.overlaps(of_axes)] == []
    upright = [(text.get_text(), box.padded(-1)) for text, box in boxes.items() if not text.get_rotation() % 90]
    assert [(a, b) for (a, of_a), (b, of_b) in itertools.combinations(upright, 2) if of_a.overlaps(of_b)] == []


def test_title_and_notes_are_the_caption():
    drawing = FIGURES["scores"][0]()
    (caption,) = [text.get_text() for text in drawing.printed[0].findobj(Text) if "3 runs" in text.get_text()]
    assert " ".join(caption.split()) == f"3 runs. {PROTOCOLS[0]}."
    assert "3 runs" in [text.get_text() for text in drawing.picture.findobj(Text)]  # on a screen, above the panels


def against(parameters, groups=8):
    """Scores against many parameters: three panels for each."""
    return figures.against(
        {(score, f"p{k}"): [(figures.ScorePoint(f"g{g}", f"r{g}", 9, g + 1.0, PROTOCOLS[0], 9.0), g % 3) for g in range(groups)]
         for k in range(parameters) for score in SCORES[:3]}, "against parameters", [f"g{g}" for g in range(groups)],
    )  # fmt: skip


TALL = dict(
    parameters=(lambda: against(17), 51, 4),
    lines=(lambda: figures.curves_by_group([figures.RunRecords(f"run {k}", f"run {k}", HISTORY, []) for k in range(20)]), 9, 3),
    rows=(lambda: figures.strips([(f"run {k}", torch.zeros(2, 3, 32, 32)) for k in range(20)], "latents"), 40, 2),
)


@pytest.mark.parametrize("name", TALL)
def test_a_figure_taller_than_a_page_is_continued_on_others(name):
    make, panels, count = TALL[name]
    drawing = make()
    pages = drawing.printed
    assert len(pages) == count and sum(len(page.axes) for page in pages) == panels
    assert max(page.get_size_inches()[1] for page in pages) <= TALLEST and drawing.picture.get_size_inches()[1] > TALLEST
    captions = [text.get_text() for page in pages for text in page.findobj(Text) if "ontinued." in text.get_text()]
    assert captions == ["Continued."] * (count - 1)


def test_pages_are_those_of_a_pdf_and_files_of_an_svg(tmp_path):
    make, _, count = TALL["rows"]
    drawing = make()
    assert b"/Count %d" % count in drawing.save(tmp_path / "a.pdf").read_bytes()
    drawing.save(tmp_path / "a.svg")
    assert len(list(tmp_path.glob("a*.svg"))) == count and (tmp_path / "a-page2.svg").exists()
    assert figures.redraw(tmp_path / "a.svg.json").save(tmp_path / "b.svg").read_bytes() == (tmp_path / "a.svg").read_bytes()
    FIGURES["one_column"][0]().save(tmp_path / "a.svg")
    assert [path.name for path in tmp_path.glob("a*.svg")] == ["a.svg"]  # no page of the figure before is left


def test_parts_of_a_composition_keep_their_letters_over_pages():
    few = FIGURES["one_column"][0]()
    whole = figures.compose([few, against(9), few, few], ["One.", "Two.", "Three.", "Four."])
    captions = [
        [text.get_text().split("\n")[0] for text in page.findobj(Text) if re.match(r"\([a-d]\)", text.get_text())] for page in whole.printed
    ]
    assert len(captions) > 2 and [caption[:4] for caption in captions[0]] == ["(a) ", "(b) "] and set(captions[1]) == {"(b) Continued."}
    assert captions[-1][-2:] == ["(c) Three.", "(d) Four."] and max(page.get_size_inches()[1] for page in whole.printed) <= TALLEST
