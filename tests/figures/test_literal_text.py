"""Text in figures is what it says, in any script; what cannot be drawn has a reason in its place."""

import html
import io
import json
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.text import Text
from PIL import Image
from records import recorded, scored

from workbench import AttentionView, ParameterError, WorkbenchError, figures, messages, views
from workbench.figures import literal_text, records
from workbench.figures.charts import Chart
from workbench.figures.interactive import literal
from workbench.files import StorageError, UnreadableError
from workbench.metrics.protocols import protocol
from workbench.studies.groups import Group
from workbench.views.train import sample_grid

HOSTILE = [
    "$x$", r"$\frac{", r"$a_{b}$ \bad", "<b>bold</b>", '<a href="http://x.invalid">link</a>', "%{x} %{y}", "a&lt;b&#36;", "猫", "日本語", "강아지",
    "عربي", "🐱", "tab\tnew\x01", "\udc80 not UTF-8", "back\\slash", "{braces}", "</script><script>alert(1)</script>", "<sup>2</sup>",
]  # fmt: skip


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(messages, "_printed", set())
    literal_text._family_with.cache_clear()
    yield
    literal_text._family_with.cache_clear()


def words(picture):
    return [text.get_text() for text in picture.findobj(Text)]


@pytest.mark.slow
def test_nothing_is_mathematics_whoever_sets_rcparams():
    with matplotlib.rc_context({"text.usetex": True, "axes.formatter.use_mathtext": True, "text.parse_math": True}):
        picture = literal_text.LiteralFigure(figsize=(5, 4))
        panels = picture.subplots(1, 2)
        for panel in panels:
            panel.plot([1, 1e7], [1, 1e9], label=r"$\bad{")
            panel.set(title=r"$x$", xlabel=r"$\frac{", ylabel=r"a $_$ b")
            panel.legend(title="$t$")
        panels[0].set_xticks([0, 1e7], ["$a$", "$_$"])
        picture.suptitle("$$")
        picture.tight_layout()
        for ending in ("png", "svg", "pdf"):
            picture.savefig(io.BytesIO(), format=ending)
    texts = picture.findobj(Text)
    assert not any(text.get_parse_math() or text.get_usetex() for text in texts)
    assert {"$x$", r"$\frac{", "$a$", "$$", "$t$"} <= set(words(picture)) and not any("mathdefault" in word for word in words(picture))


def test_logarithmic_axes_need_no_mathematics(tiny):
    runs = [recorded(tiny, f"w{k}", [1.0], width=8 * 2**k, lr_d=10.0**-k if k else 0.5) for k in range(8)]
    for run in runs:
        scored(run, 1, protocol("official"), fid=10)
    shown = views.across_runs.scatter(runs, against="lr_d").picture
    shown.savefig(io.BytesIO(), format="png", dpi=30)
    assert not any("$" in word for word in words(shown))


def test_names_without_a_font_are_readable_and_the_package_is_named(capsys, monkeypatch):
    monkeypatch.setattr(literal_text, "_has", lambda family, character: ord(character) < 0x2000)
    assert literal_text.readable("猫 and 犬小屋さん$x$") == "U+732B and U+72AC U+5C0F U+5C4B U+3055…$x$"
    assert literal_text.readable("猫") != "猫" and literal_text.readable("été") == "été"
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and "fonts-noto-cjk" in told[0]
    assert literal_text.readable("\udc80\x01") == "U+DC80 "
    picture = literal_text.LiteralFigure()
    panel = picture.subplots()
    panel.set_title("犬")
    panel.set_xticks([0, 1], ["猫", "b"])
    picture.savefig(io.BytesIO(), format="png", dpi=30)
    assert {"U+72AC", "U+732B", "b"} <= set(words(picture))


def test_each_glyph_comes_from_a_font_that_has_it(monkeypatch):
    fonts = {"Noto Sans CJK SC": "猫", "Symbola": "🐱"}
    monkeypatch.setattr(literal_text, "_has", lambda family, character: character in fonts.get(family, "abc "))
    names = [font_manager.FontEntry(name=name) for name in fonts]
    monkeypatch.setattr(literal_text.fontManager, "ttflist", [*literal_text.fontManager.ttflist, *names])
    picture = literal_text.LiteralFigure()
    text = picture.text(0, 0, "a 猫 🐱")
    picture._prepare_texts()
    assert text.get_text() == "a 猫 🐱" and text.get_fontfamily() == ["sans-serif", "Noto Sans CJK SC", "Symbola"]


def test_a_font_installed_since_is_found(monkeypatch, tmp_path):
    """Matplotlib keeps its list of fonts in a file, and looks for new ones never."""
    file = next(font.fname for font in font_manager.fontManager.ttflist if font.name == "DejaVu Sans")
    known = [font for font in font_manager.fontManager.ttflist if font.fname != file]
    monkeypatch.setattr(literal_text.fontManager, "ttflist", known)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [file, str(tmp_path / "broken.ttf")])
    literal_text._installed_since.cache_clear()
    assert "DejaVu Sans" in literal_text._installed_since()
    literal_text._installed_since.cache_clear()


@pytest.mark.parametrize("text", HOSTILE)
def test_plotly_shows_names_literally(text):
    shown = literal(text)
    assert not set("<>$") & set(shown) and "%{" not in shown
    assert html.unescape(shown.replace("<br>", "\n")) == text.encode(errors="replace").decode()


def _strings(value):
    if isinstance(value, dict):
        for entry in value.values():
            yield from _strings(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _strings(entry)
    elif isinstance(value, str):
        yield value


@pytest.mark.slow
@pytest.mark.filterwarnings("error:Glyph")  # each text is measured in the fonts that draw it
def test_every_plot_shows_every_name_literally(tiny):
    """Of runs, groups, experiments, scores, layers, columns and protocols, in the figure and in its static picture."""
    nasty = '<b>N</b><a href="//N">$x$ %{x}猫'
    runs = [recorded(tiny, f"r{k}", [1.0, 2.0], width=8 + k) for k in range(2)]
    for run in runs:
        run.path.rename(run.path.parent / (nasty.replace("/", "|") + run.name))
    runs = [type(run)(run.path.parent / (nasty.replace("/", "|") + run.name)) for run in runs]
    for run in runs:
        row = run.history()[-1] | {"step": 3, nasty: 1.0, f"gamma_{nasty}": 2.0, "d_real": 1.0, "d_fake": 0.0, "grad_norm_d": 1.0}
        run.append("history.jsonl", row)
        run.append("spectra.jsonl", dict(step=3, layers={f"G/{nasty}": dict(exact=[2.0]), f"D/{nasty}": dict(exact=[3.0, 1.0])}))
        record = scored(run, 3, protocol("official"), **{nasty: 3.0})
        run.append("evaluations.jsonl", record | dict(step=4, protocol=f"{record['protocol']}; {nasty}"))
    arms = {nasty: [Group(nasty, tuple(runs), {})]}
    rows = [dict(run=nasty, distance=1.0, arm=nasty) | {nasty: 2.0}]
    made = [
        views.train.curves(runs[0]), views.across_runs.curves(runs), views.train.diagnostics(runs[0]), views.train.singular_values(runs[0], "D"), views.across_runs.growth(runs),
        views.across_runs.scores(runs, across_protocols=True), views.across_runs.scatter(runs, across_protocols=True), views.across_runs.experiments(arms, nasty, 3),
        figures.long_range(rows, {nasty: nasty}, "arm"),
    ]  # fmt: skip
    for plot in made:
        content = json.loads(plot.figure.to_json())
        strings = [
            text for text in _strings(dict(data=content["data"], layout={k: v for k, v in content["layout"].items() if k != "template"}))
        ]
        assert not any("<b>" in text or "<a" in text or "$" in text or "%{x}猫" in text for text in strings), plot.description.title
        picture = plot.picture
        picture.savefig(io.BytesIO(), format="png", dpi=30)
        assert any("N" in word for word in words(picture)) and not any("&#" in word or "&lt;" in word for word in words(picture))


# ----------------------------------------------------------------------------------------------- damaged records


ODD = [
    dict(step=1), dict(step=2, loss_d=float("nan"), loss_g=float("inf"), seconds=None, images="x"), dict(step=3, loss_d=1e308, lr_d=-1e308),
    dict(step=4, loss_d=10**400, gamma_g16=10**400, d_real=1e300), dict(step=5, loss_d=True, grad_norm_d=[], seconds=float("nan")),
    dict(step=5, loss_d=1, seconds=-1e300), dict(step=10**15, loss_d=2.0), dict(step=-1, loss_d=1.0), dict(loss_d=2.0), dict(step="7"), dict(step=8.5),
    dict(step=9, loss_d=3.4e38, d_real=float("-inf"), d_fake=float("inf"), saturated_real={}),
]  # fmt: skip


@pytest.mark.slow
def test_odd_histories_have_figures(tiny):
    run = recorded(tiny, "odd", [])
    for rows in ([], ODD):
        (run.path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        plots = views.train.curves(run), views.across_runs.curves([run]), views.train.diagnostics(run)
        for plot in plots:
            json.dumps(json.loads(plot.figure.to_json()), allow_nan=False)
    for plot in plots:
        assert plot.png(30)


SPECTRA = [
    dict(step=1, layers=None), dict(step=2, layers={"G/a": None}), dict(step=3, layers={"G/a": dict(exact=[])}), dict(step=4, layers={"": {}, "X": 3}),
    dict(step=5, layers={"G/a": dict(exact=[None], estimate=None)}), dict(step=6, layers={"D/b": dict(exact=["x", 1e308], estimate="x")}),
    dict(step=7, layers={"G/c": dict(exact=[float("nan"), 2], estimate=0.0)}), dict(step=8, layers={"G/a": dict(exact=[-1.0, 2], estimate=2)}),
    dict(layers={}), dict(step=9, layers=[1]), dict(step=10),
]  # fmt: skip


def test_odd_spectra_have_figures(tiny):
    run = recorded(tiny, "odd", [1.0])
    made = []
    for rows in (SPECTRA[:1], SPECTRA):
        (run.path / "spectra.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for make in (views.train.diagnostics, lambda run: views.across_runs.growth([run]), views.train.singular_values):
            try:
                made.append(make(run))
            except WorkbenchError as error:
                assert "has no spectra.jsonl yet" in str(error)
    for plot in made[-3:]:
        assert plot.png(30)


def test_numbers_that_cannot_be_drawn():
    assert records.number(3) == 3 and records.number(True) is records.number("3") is None
    assert np.isnan([records.number(value) for value in (float("inf"), 1e305, 10**400, float("nan"))]).all()


def test_evaluations_without_optional_entries(tiny):
    run = recorded(tiny, "odd", [1.0])
    record = scored(run, 1, protocol("official"), fid=10)
    for name in ("errors", "reference", "extractor", "n", "per_class"):
        run.append("evaluations.jsonl", {k: v for k, v in record.items() if k != name} | dict(step=2))
    assert views.across_runs.scores(run).png(30)
    assert figures.score_table(run.evaluations())._repr_html_()


# ------------------------------------------------------------------------------------------------ damaged pictures


def png(size=(8, 8)):
    stream = io.BytesIO()
    Image.new("RGB", size, "red").save(stream, "PNG")
    return stream.getvalue()


def foreign(kind):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, kind)
    return stream.getvalue()


DAMAGED = {
    "empty": b"", "zeroed": bytes(100), "cut": png((64, 64))[:-60], "text": b"no picture", "foreign": foreign("JPEG"), "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "header": png()[:20], "huge": png().replace((8).to_bytes(4, "big") * 2, (2**20).to_bytes(4, "big") * 2),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_samples_are_told_and_the_rest_is_drawn(tiny, content):
    run = recorded(tiny, "damaged", [1.0])
    path = run.sample_path(100)
    path.parent.mkdir()
    path.write_bytes(content)
    note = views.train.samples(run)
    assert str(note).startswith(f"{path} cannot be read: ") and "\n" not in str(note) and not note
    with pytest.raises(WorkbenchError, match=" cannot be read: "):
        note.save("x.png")
    assert Image.open(io.BytesIO(views.train.summary_png(run))).width > 900


@pytest.mark.slow
def test_samples_that_are_not_there(tiny):
    run = recorded(tiny, "none", [1.0])
    assert "has no samples yet" in str(views.train.samples(run))
    assert Image.open(io.BytesIO(views.train.summary_png(run)))
    run.sample_path(5).parent.mkdir()
    run.sample_path(5).write_bytes(png((1, 4000)))
    assert views.train.samples(run).height == 4000 * views.train.samples(run).width
    with pytest.raises(ParameterError, match="step=7: run 'none' has no samples of this step; it has those of: 5"):
        views.train.samples(run, 7)
    with pytest.raises(UnreadableError, match=r"Is a directory|not a regular file"):
        sample_grid(run.sample_path(5).parent)


def test_a_run_without_a_checkpoint_has_notes_in_place_of_figures(tiny):
    run = recorded(tiny, "young", [1.0])
    assert "'young' has no checkpoint yet" in str(AttentionView(run=run.name).figure())
    assert AttentionView(run=run.name).through_training() is None
    run.new_attention_path(4).parent.mkdir()
    run.new_attention_path(4).write_bytes(b"no tensors")
    assert " cannot be read: " in str(AttentionView(run=run.name).through_training())
    drawing = views.across_runs.sample_rows([("young", run, 4)])
    assert any("has no checkpoint" in " ".join(word.split()) for word in words(drawing.picture))


def test_a_damaged_configuration_is_one_line(tiny):
    run = recorded(tiny, "odd", [1.0])
    (run.path / "config.json").write_text("{")
    assert " cannot be read: " in str(AttentionView(run=run.name).figure())


def test_an_unwritable_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        figures.Plot(Chart("", ())).save(tmp_path / "file" / "figure.png")
    with pytest.raises(StorageError, match="cannot be written"):
        figures.table([dict(a=1)], save=tmp_path / "file" / "table.csv")


# ---------------------------------------------------------------------------------------------------- sidecars


@pytest.mark.parametrize("content", [
    "", "\0\0\0", "{}", '{"figure": "curves"}', '{"figure": ["curves"]}', '{"figure": {}}', '{"figure": {"title": "x"}}', '{"figure": {"panels": []}}',
    '{"figure": {"title": "x", "panels": 3}}', '{"figure": {"title": 3, "panels": []}}', '{"figure": {"title": "x", "panels": [], "columns": 1e9}}',
    '{"figure": {"title": "x", "panels": [], "height": 1000000000}}', '{"figure": {"title": "x", "panels": [], "__class__": "x"}}',
    '{"figure": {"title": "x", "panels": [{"title": "x", "lines": [{"x": [1], "y": ["a"]}]}]}}',
    '{"figure": {"title": "x", "panels": [{"title": "x", "lines": [{"x": [1, 2, 3], "y": [1]}]}]}}',
    '{"figure": {"title": "x", "panels": [{"title": "x", "lines": [{"x": [1], "y": [1], "colour": "no colour"}]}]}}',
    '{"figure": {"title": "x", "rows": [], "images": []}}', '{"figure": {"title": "x", "rows": [{"cells": [{"image": 0}]}], "images": []}}',
    '{"figure": {"title": "x", "rows": [{"cells": [{"image": 0}]}], "images": ["AAAA"]}}',
    '{"figure": {"title": "x", "rows": [{"note": "x"}], "images": [], "cell": 1e6}}', "[" * 100_000,
])  # fmt: skip
def test_damaged_and_hostile_sidecars_are_one_line(tmp_path, content):
    (tmp_path / "figure.json").write_text(content)
    with pytest.raises(WorkbenchError) as caught:
        figures.redraw(tmp_path / "figure.json")
    assert "figure.json" in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 600
    with pytest.raises(WorkbenchError, match="the file does not exist"):
        figures.redraw(tmp_path / "gone.json")


@pytest.mark.slow
def test_a_matplotlibrc_with_latex_changes_nothing(tmp_path):
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\naxes.formatter.use_mathtext: True\n")
    code = "from workbench import Run, views; views.train.curves(Run('demo')).png(); views.train.curves(Run('demo')).save('figure.pdf')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
    assert (tmp_path / "figure.pdf").stat().st_size > 5000
