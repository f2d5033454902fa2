# ruff: noqa: RUF001
"""The dashboard without a browser: what it reads from a run folder, what it tells, and when it stops waiting."""

import ast
import asyncio
import base64
import html
import io
import json
import re
import shlex
import signal
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from PIL import Image

from workbench import Config, WorkbenchError, figures, train
from workbench.paths import program
from workbench.runs import Run, create_run
from workbench.widgets import Dashboard
from workbench.widgets.chart import LiveChart
from workbench.widgets.dashboard import charts as charts_module
from workbench.widgets.dashboard.charts import TABS


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    """A run that "trains" as long as this process lives."""
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(tmp_path))
    monkeypatch.delenv("WORKBENCH_HEADLESS", raising=False)
    run = create_run(Config.preset("twins32", run="demo", steps=400, batch_size=64))
    run.set_status(state="running", step=0, steps=400, message="", alarms=[], seconds_per_step=0.125)
    return run


def log(run: Run, *steps: int, **values) -> None:
    """Write history rows."""
    with open(run.path / "history.jsonl", "a") as file:
        for step in steps:
            row = dict(step=step, images=64 * step, seconds=step / 8, loss_d=1.32, loss_g=0.41, d_real=0.4, d_fake=-0.3)
            row |= dict(gamma_g16=-0.05, lr_g=2e-4, lr_d=8e-4)
            file.write(json.dumps(row | values) + "\n")


def sample(run: Run, step: int, size: int = 8) -> bytes:
    """Write a sample grid of noise, which does not compress."""
    run.sample_path(step).parent.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(step).integers(0, 256, (size, size, 3), np.uint8)).save(run.sample_path(step))
    return run.sample_path(step).read_bytes()


def follow(run: Run, *script, **options) -> Run:
    """Follow a run while the functions of a script are called, one after the other."""

    async def act():
        for action in script:
            await asyncio.sleep(0.05)
            action()

    async def both():
        followed, _ = await asyncio.gather(Dashboard(run).follow(poll=0.01, **options), act())
        return followed

    return asyncio.run(asyncio.wait_for(both(), 20))


# ------------------------------------------------------------------------------------------------ diagnostics


def spectra(run: Run, *steps: int, **exact) -> None:
    """Write spectra of two layers, the one of D with an estimate; `exact` replaces the value of G's."""
    for step in steps:
        g = dict(exact=[exact.get("g", 2.0), 1.0], stable_rank=1.5)
        d = dict(exact=[3.0 + step / 100, 1.0], stable_rank=1.5, estimate=2.0, renewed=2.1)
        run.append("spectra.jsonl", dict(step=step, layers={"G/linear": g, "D/blocks.16.conv1": d}))


DIAGNOSED = dict(grad_norm_d=2.0, grad_norm_d_max=3.0, grad_norm_g=0.5, grad_norm_g_max=0.6, saturated_real=0.25, saturated_fake=0.75)


@pytest.fixture
def view(run, monkeypatch):
    """Makes what a notebook shows of a run, without a front end: `view()` gives the dashboard and its widgets."""
    monkeypatch.setenv("WORKBENCH_HEADLESS", "0")
    monkeypatch.setattr(Dashboard, "_keep_watching", lambda self: None)

    def make():
        board = Dashboard(run)
        return board, board.view

    return make


def open_tab(widgets, name: str):
    """The charts of a tab by their titles, once that is looked at."""
    widgets.charts._tab.selected_index = TABS.index(name)
    charts = [frame.children[0] for frame in widgets.charts._panes[name].children if hasattr(frame, "children")]
    return {chart.layout.annotations[0].text.split(" (")[0]: chart for chart in charts}


def lines(chart) -> dict[str, list]:
    return {trace.name: list(trace.y) for trace in chart.data}


@pytest.mark.slow
def test_the_tabs_show_what_was_read_and_draw_only_when_looked_at(run, view):
    log(run, 10, 20, **DIAGNOSED)
    spectra(run, 0, 20)
    board, widgets = view()
    losses = open_tab(widgets, "Curves")["hinge losses"]
    assert lines(losses) == {"D": [1.32, 1.32], "G": [0.41, 0.41]} and list(losses.data[0].x) == [10, 20]
    assert lines(open_tab(widgets, "Curves")["gradient norms"])["G, max"] == [0.6, 0.6]
    assert not widgets.charts._panes["Diagnostics"].children  # nobody has looked
    assert lines(open_tab(widgets, "Diagnostics")["weights at work"])["D/blocks.16.conv1"] == [1.5, 1.6]
    layer = widgets.charts._layer
    assert set(lines(open_tab(widgets, "Layers")["linear"])) == {"largest", "second"}
    assert layer.options == ("G/linear", "D/blocks.16.conv1")
    layer.value = "D/blocks.16.conv1"
    assert lines(open_tab(widgets, "Layers")["blocks.16.conv1"])["estimate"] == [2, 2]
    assert not open_tab(widgets, "Scores") and "no values yet" in widgets.charts._panes["Scores"].children[0].value
    board.run.append("evaluations.jsonl", dict(step=20, scores={"fd": 7.0}, protocol="n=70"))
    board.refresh()
    assert lines(open_tab(widgets, "Scores")["fd"]) == {"fd": [7.0]}
    assert open_tab(widgets, "Scores")["fd"].layout.yaxis.title.text.startswith("lower is better")
    spectra(run, 30, g=None)  # not finite
    board.refresh()
    layer.value = "G/linear"
    assert lines(open_tab(widgets, "Layers")["linear"])["largest"] == [2, 2, None]


def test_a_chart_that_grows_is_changed_and_not_made_anew(run, view):
    log(run, 10, 20)
    board, widgets = view()
    chart, sent = open_tab(widgets, "Curves")["gamma"], []
    chart._send_update_msg = lambda **message: sent.append(message)
    log(run, 30, lr_d=8e-4)
    board.refresh()
    assert open_tab(widgets, "Curves")["gamma"] is chart and list(chart.data[0].x) == [10, 20, 30] and len(sent) == 1
    board.refresh()
    assert len(sent) == 1  # nothing changed, so nothing is sent
    log(run, 40, gamma_d32=0.1)  # another line
    board.refresh()
    assert open_tab(widgets, "Curves")["gamma"] is not chart


def test_a_chart_follows_the_size_of_its_place_from_the_beginning(run, view, monkeypatch):
    """A page draws it as soon as it is there: what is set later may come too late."""
    sent, open_comm, send_state = [], LiveChart.open, LiveChart.send_state
    note = lambda chart: sent.append(chart.get_state("_config")["_config"].get("responsive"))  # noqa: E731
    monkeypatch.setattr(LiveChart, "open", lambda chart: (note(chart), open_comm(chart)))
    monkeypatch.setattr(LiveChart, "send_state", lambda chart, key=None: (note(chart), send_state(chart, key)))
    log(run, 10, 20)
    chart = open_tab(view()[1], "Curves")["hinge losses"]
    assert sent and all(sent) and chart._config["responsive"]


def test_a_range_that_the_user_chose_stays(run, view):
    log(run, *range(1, 60))
    log(run, 60, loss_d=500.0)
    board, widgets = view()
    chart = open_tab(widgets, "Curves")["hinge losses"]
    assert chart.layout.annotations[0].text == "hinge losses" and max(chart.layout.yaxis.range) < 5
    assert chart.layout.xaxis.title.text == "G step · 1 value outside"  # beside the title it would cover the legend
    log(run, 61, loss_d=600.0)
    board.refresh()
    assert chart.layout.xaxis.title.text == "G step · 2 values outside" and max(chart.layout.yaxis.range) < 5
    chart.layout.yaxis.range = (0, 700)
    log(run, 62, loss_d=2.0)
    board.refresh()
    assert open_tab(widgets, "Curves")["hinge losses"] is chart and list(chart.layout.yaxis.range) == [0, 700]


def test_the_controls_of_the_curves(run, view):
    log(run, *range(64, 6401, 64), loss_d=1.0)
    log(run, 6464, loss_d=1000.0)
    widgets = view()[1]
    controls = widgets.charts
    controls._axis.value = "images"
    assert open_tab(widgets, "Curves")["hinge losses"].data[0].x[0] == 64 * 64
    controls._all.value = True
    assert open_tab(widgets, "Curves")["hinge losses"].layout.yaxis.range is None
    controls._log.value = True
    charts = open_tab(widgets, "Curves")
    assert [charts[name].layout.yaxis.type for name in ("hinge losses", "gamma")] == ["log", "linear"]  # gamma is negative
    assert charts["gamma"].layout.xaxis.title.text == "images · not logarithmic: most values are 0 or less"


def test_other_runs_are_laid_over_the_curves(run, view, monkeypatch):
    """Each run has a colour; what has changed in another run is read again, and only then."""
    other = create_run(Config.preset("twins32", run="other"))
    log(run, 10, 20)
    log(other, 10, loss_d=3.0)
    board, widgets = view()
    charts = widgets.charts
    assert charts._overlay.options == ("overlay a run", "other")
    charts._overlay.value = "other"
    assert charts._overlay.options == ("overlay a run",)
    by_run = {(trace.name, trace.line.dash): trace for trace in open_tab(widgets, "Curves")["hinge losses"].data}
    assert list(by_run["other", None].y) == [3.0] and list(by_run["demo", "dash"].y) == [0.41, 0.41]
    assert by_run["other", None].line.color == by_run["other", "dash"].line.color != by_run["demo", None].line.color
    log(other, 20, loss_d=4.0)
    board.refresh()
    assert [3.0, 4.0] in [list(trace.y) for trace in open_tab(widgets, "Curves")["hinge losses"].data]
    monkeypatch.setattr(charts_module, "MOST_OTHERS", 1)
    charts._set_others(charts._others)
    assert charts._overlay.disabled  # no more than so many
    charts._chips.children[1].children[1].click()  # the cross
    assert not charts._overlay.disabled
    assert {trace.name for trace in open_tab(widgets, "Curves")["hinge losses"].data} == {"D", "G"}


def test_a_click_on_a_curve_moves_the_samples(run, view):
    for step in (0, 100, 200):
        sample(run, step)
    log(run, *range(10, 201, 10))
    widgets = view()[1]
    assert widgets.samples.step == 200
    widgets.charts._click(112)
    assert widgets.samples.step == 100
    widgets.charts._axis.value = "images"
    widgets.charts._click(64 * 180)
    assert widgets.samples.step == 200


def test_constant_rates_are_words_and_others_a_chart(run, view):
    log(run, 10, 20)
    board, widgets = view()
    assert "learning rates: G 0.0002, D 0.0008" in widgets._facts.value and "learning rates" not in open_tab(widgets, "Curves")
    log(run, 30, lr_d=1e-5)
    board.refresh()
    assert "learning rates" not in widgets._facts.value and "learning rates" in open_tab(widgets, "Curves")


def test_a_collapsed_run_is_not_green(run, view):
    run.set_status(alarms=["collapse: all samples look nearly the same"])
    board, widgets = view()
    for state, words in (("running", "training, collapsed"), ("finished", "finished, collapsed")):
        run.set_status(state=state)
        board.refresh()
        assert words in widgets._name.value and "collapsed'" in widgets._name.value and widgets._progress.bar_style == "warning"


def test_rows_of_samples_have_the_names_of_their_classes(run, view):
    (run.path / "provenance.json").write_text(json.dumps(dict(data=dict(classes=["<b>", *"bcdef"]))))
    sample(run, 0)
    widgets = view()[1]
    assert re.findall("<span>(.*?)</span>", widgets.samples._rows.value) == ["&lt;b&gt;", *"bcdef"]


@pytest.mark.slow
def test_long_curves_are_thinned_and_smoothed(run, view):
    rng = np.random.default_rng(0)
    for start in range(1, 20_001, 4000):
        with open(run.path / "history.jsonl", "a") as file:
            file.writelines(json.dumps(dict(step=s, images=1, seconds=s, loss_d=rng.normal())) + "\n" for s in range(start, start + 4000))
    _, widgets = view()
    losses = lambda: open_tab(widgets, "Curves")["hinge losses"].data[0]  # noqa: E731
    x = list(losses().x)
    assert 100 < len(x) <= 8000 and (x[0], x[-1]) == (1, 20_000)
    rough = np.std(losses().y)
    widgets.charts._smoothing.value = 0.95
    assert np.std(losses().y) < rough / 2


# ------------------------------------------------------------------------------------------------ reading a run


def test_traits_follow_a_history_that_grows_and_shrinks(run):
    view = Dashboard(run)
    losses = lambda: [row["step"] for row in view.rows]  # noqa: E731
    assert losses() == [] and view.head["facts"]["steps"] == "0 / 400"
    log(run, 10, 20, 30)
    run.set_status(step=33)
    view.refresh()
    assert losses() == [10, 20, 30]
    facts = "33 / 400 steps, 8 % done, 8 steps/s, 512 images/s, 0:04 elapsed, 0:46 left"
    assert ", ".join(f"{value} {unit}" for unit, value in view.head["facts"].items()) == facts
    with open(run.path / "history.jsonl", "a") as file:
        file.write('{"step": 40, "lo')  # caught in the middle of a line
    view.refresh()
    assert losses() == [10, 20, 30]
    run.begin_records(run, 20)  # resumed from a checkpoint
    view.refresh()
    assert losses() == [10, 20]


def test_unchanged_files_are_not_read_again(run, monkeypatch):
    log(run, 10)
    view = Dashboard(run)
    monkeypatch.setattr(Run, "history", lambda self: pytest.fail("read again"))
    view.refresh()


def shown(widgets) -> bytes | None:
    return None if widgets.samples._image.layout.display == "none" else bytes(widgets.samples._image.value)


def test_samples_are_found_with_the_slider_and_the_newest_follow(run, view):
    board, widgets = view()
    assert (
        shown(widgets) is None and "no samples yet; they come every" in widgets.samples._caption.value and widgets.samples._slider.disabled
    )
    first = sample(run, 0)
    board.refresh()
    assert shown(widgets) == first and "step 0, the newest" in widgets.samples._caption.value
    second = sample(run, 100)
    board.refresh()
    assert shown(widgets) == second and (widgets.samples._slider.value, widgets.samples._slider.max) == (1, 1)
    widgets.samples._slider.value = 0  # back through time
    assert shown(widgets) == first
    third = sample(run, 200)
    board.refresh()
    assert shown(widgets) == first and (widgets.samples._slider.value, widgets.samples._slider.max) == (
        0,
        2,
    )  # what is new does not take it along
    widgets.samples._newest.click()
    assert shown(widgets) == third
    widgets.samples._slider.value = 1
    run.sample_path(100).unlink()  # a resumed run has dropped it
    board.refresh()
    assert shown(widgets) == third


def test_a_large_grid_is_kept_in_the_notebook_as_a_small_picture(run, view):
    sample(run, 100, size=1000)
    _, widgets = view()
    assert len(widgets.samples._image.value) > 1_000_000
    widgets.keep_in_notebook()
    assert len(widgets.samples._image.value) < 120_000 and Image.open(io.BytesIO(widgets.samples._image.value)).size == (600, 600)


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", bytes(50), b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_damaged_samples_are_told_where_they_would_be(run, view, content):
    png = sample(run, 50)
    run.sample_path(100).write_bytes(content)
    board, widgets = view()
    assert board.samples == [50, 100] and " cannot be read: " in board.head["alarms"][0]
    assert (
        shown(widgets) is None
        and "step 100, the newest: " in widgets.samples._caption.value
        and " cannot be read: " in widgets.samples._caption.value
    )
    widgets.samples._slider.value = 0
    assert shown(widgets) == png
    run.set_status(state="finished", step=400)
    assert "image/png" in Dashboard(run)._repr_mimebundle_()
    sample(run, 100)
    board.refresh()
    widgets.samples._newest.click()
    assert shown(widgets) and not board.head["alarms"]


@pytest.mark.parametrize("message", [None, [], {}, dict(kind=3), dict(kind="sample"), dict(kind="free")])
def test_malformed_messages_are_no_trace(run, view, message, monkeypatch):
    log(run, 10)
    chart = open_tab(view()[1], "Curves")["gamma"]
    monkeypatch.setattr(chart, "send", lambda *_: pytest.fail("nobody asked"))
    chart._receive(chart, message, [])


def test_a_chart_gives_plotly_to_a_page_that_asks(run, view, monkeypatch):
    """The widget itself holds a few lines of JavaScript: five megabytes in each would be in every notebook."""
    log(run, 10)
    chart, sent = open_tab(view()[1], "Curves")["gamma"], []
    monkeypatch.setattr(chart, "send", lambda content, buffers: sent.append((content, buffers)))
    chart._receive(chart, dict(kind="plotly"), [])
    assert sent[0][0] == dict(kind="plotly") and 500_000 < len(sent[0][1][0]) < 2_500_000 and len(chart.get_state()["_esm"]) < 7500


def test_damaged_files_leave_the_rest_of_the_view(run, view, monkeypatch):
    log(run, 10, 20)
    odd = [
        dict(step=30, loss_d=1e308, seconds=float("nan")),
        dict(step=31),
        dict(step=32, loss_d=10**400, gamma_g16=float("inf")),
        dict(step=32),
    ]
    with open(run.path / "history.jsonl", "a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in odd) + "\0\0\n[]\n")
    run.append("spectra.jsonl", dict(step=1, layers={"G/a": dict(exact=[2.0])}))
    run.append("spectra.jsonl", dict(step=2, layers={"D/b": dict(exact=[None])}))
    run.append("evaluations.jsonl", dict(step=3, scores={"<b>": 2.0, "nan": float("nan")}, protocol="$x$"))
    view, widgets = view()
    json.dumps(view.head, allow_nan=False)
    losses = figures.curves("", view.rows).description.panels[0].lines
    assert [y for y in losses[0].y if y is not None] == [1.32, 1.32]
    assert figures.scores_of_run("", view.evaluations).description.panels[0].title == "<b>"
    for tab in TABS:
        open_tab(widgets, tab)
    assert view.line()
    for file in ("status.json", "config.json"):
        (run.path / file).write_text("{")
        view.refresh()
        assert view.head["state"] == "unreadable" and f"{run.path / file} cannot be read: " in view.head["alarms"][0]
        json.dumps(view.head, allow_nan=False)
        assert view.line() and repr(view) and Dashboard(run).rows
        monkeypatch.undo()
        monkeypatch.setenv("WORKBENCH_OUTPUTS", str(run.path.parent))
        with pytest.raises(WorkbenchError, match=" cannot be read: "):
            follow(run)


def test_odd_numbers_of_a_status(run):
    for changes in (
        dict(step=10**400, steps=0),
        dict(step=-5),
        dict(seconds_per_step=float("nan")),
        dict(seconds_per_step=-1),
        dict(seconds_per_step=1e308),
    ):
        run.set_status(**changes)
        json.dumps(Dashboard(run).head, allow_nan=False)


def test_hostile_names_are_plain_text(run, view):
    nasty = "<img src=x onerror=alert(1)>"
    run.set_status(alarms=[nasty], message=nasty)
    run.append("evaluations.jsonl", dict(step=3, scores={nasty: 2.0}, protocol=nasty))
    run.append("spectra.jsonl", dict(step=1, layers={f"G/{nasty}": dict(exact=[2.0])}))
    log(run, 10, **{f"gamma_{nasty}": 1.0})
    board, widgets = view()
    assert board.head["alarms"] == [nasty] and board.head["message"] == nasty
    values = [widget.value for widget in (widgets._name, widgets._facts, widgets._notes, widgets.samples._caption)]
    values += [chart.to_json() for name in ("Curves", "Scores", "Layers") for chart in open_tab(widgets, name).values()]
    assert not any("<img" in value for value in values) and "&lt;img" in widgets._notes.value
    script = LiveChart._esm
    assert not any(word in script for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("))


def test_the_stop_button_asks_the_training_to_stop(run, view):
    board, widgets = view()
    widgets._stop.click()
    assert (run.path / "stop").exists()
    assert board.head["badge"] == "stopping…" and board.head["active"]
    assert widgets._stop.disabled and "stopping…" in widgets._name.value


@pytest.mark.slow
def test_the_saved_state_is_small(run, view):
    log(run, *range(50, 1_000_050, 50), gamma_g32=0.123456789, gamma_d16=0.1, gamma_d32=-0.1, **DIAGNOSED)
    layers = {f"{net}/blocks.{k}.conv1": dict(exact=[1.234567, 1.1], estimate=1.234567) for k in range(25) for net in "GD"}
    for step in range(0, 1_000_000, 5000):
        run.append("spectra.jsonl", dict(step=step, layers=layers))
    sample(run, 1_000_000, size=195)
    widgets = view()[1]
    states = [child.get_state() for child in (*open_tab(widgets, "Curves").values(), widgets.samples._image)]
    assert len(widgets.samples._image.value) > 110_000 and len(open_tab(widgets, "Curves")["gamma"].data[0].x) > 3
    assert len(json.dumps(states, default=lambda value: base64.b64encode(value).decode())) < 500_000


def test_an_ended_run_carries_a_picture(run):
    log(run, 10, 20)
    sample(run, 20)
    data = Dashboard(run)._repr_mimebundle_()
    assert set(data) == {"text/plain"}  # the training goes on: the picture comes at its end
    run.set_status(state="finished", step=400)
    data = Dashboard(run)._repr_mimebundle_()
    assert data["text/plain"] == "Dashboard('demo', finished, step 400 of 400)"
    assert Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).format == "PNG"


def test_a_front_end_gets_the_widgets_and_a_still_picture_that_they_hide(run, view):
    log(run, 10)
    sample(run, 10)
    board, widgets = view()
    assert "application/vnd.jupyter.widget-view+json" in widgets.bundle()
    still = widgets.still(board._picture()).data
    (hidden,) = re.findall(r'class="([\w-]+)-still"', still)
    assert hidden in widgets.root._dom_classes and f"body:has(.{hidden}) .{hidden}-still" in still
    assert "training" in still and html.escape(board.command()) in still and "data:image/png;base64" in still


def test_what_a_view_tells_to_paste_works_in_a_kernel_that_knows_nothing_yet(run):
    run.set_status(state="finished", step=400)
    code = compile(Dashboard(run).command(), "cell", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    asyncio.run(eval(code, {}))


def test_the_still_picture_follows_the_run_but_not_every_moment(run, view):
    log(run, 10)
    board, shown = view()[0], []
    board._still = SimpleNamespace(replace=lambda content: shown.append(content.data))
    board._update_still(now=False)
    sample(run, 10)
    board.refresh()
    board._update_still(now=False)  # too early
    assert len(shown) == 1
    board._update_still(now=True)
    board._update_still(now=True)  # nothing new
    assert len(shown) == 2 and "data:image/png" in shown[1]


def test_a_fork_starts_from_the_checkpoint_of_the_samples(tiny, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HEADLESS", "0")
    monkeypatch.setattr(Dashboard, "_keep_watching", lambda self: None)
    run = train(tiny(run="parent", steps=6, checkpoint_every=2, sample_every=2))
    widgets = Dashboard(run).view
    fork, started = widgets.fork, []
    assert list(fork._step.options) == [2, 4, 6] and fork._step.value == 6
    widgets.samples.show(5)
    assert fork._step.value == 4
    widgets.samples.show(0)
    assert fork._step.value == 2  # the first one: there is none before
    monkeypatch.setattr("workbench.widgets.dashboard.fork.launch", lambda config: started.append(config) or run)
    for changes, message in (
        ("lr_d", "&#x27;lr_d&#x27; is not parameter=value"),
        ("lrd=1", "did you mean &#x27;lr_d&#x27;"),
        ("lr_d=-1", "lr_d"),
    ):
        fork._changes.value = changes
        fork.start()
        assert message in fork._answer.value and not started
    fork._changes.value, fork._run.value = "lr_d=4e-4; steps=10", "child"
    fork.start()
    (config,) = started
    assert (config.resume, config.lr_d, config.steps, config.run) == ("parent@2", 4e-4, 10, "child")
    assert len(widgets._below.children) == 1  # its dashboard


# ------------------------------------------------------------------------------------------------ following


def test_follow_ends_when_the_training_has_finished(run, capsys):
    log(run, 10)
    followed = follow(run, lambda: log(run, 400), lambda: run.set_status(state="finished", step=400))
    lines = capsys.readouterr().out.splitlines()
    assert followed is run
    assert re.fullmatch(r"step 0/400  0 %  8 steps/s  512 images/s  0:50 left  D 1\.32  G 0\.41  γ g16 -0\.05", lines[0])
    assert re.fullmatch(r"step 400/400  100 %  8 steps/s  512 images/s  D 1\.32 .* finished", lines[1])


def test_follow_prints_a_line_now_and_then_and_each_alarm_once(run, capsys):
    alarm = lambda: run.set_status(alarms=["collapse: all samples look the same"])  # noqa: E731
    follow(run, alarm, alarm, lambda: run.set_status(state="finished"), every=0.04)
    lines = capsys.readouterr().out.splitlines()
    assert 3 <= sum(line.startswith("step ") for line in lines) <= 8
    assert lines.count("alarm: collapse: all samples look the same") == 1


def test_follow_tells_how_to_go_on_after_a_stop(run, capsys):
    follow(run, lambda: run.set_status(state="stopped", step=120, message="stopped at step 120; go on with ..."))
    assert "stopped at step 120; go on with ..." in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    "change, reason",
    [
        (dict(state="failed", message="training diverged at step 120"), "training diverged at step 120"),
        (dict(born=0), f"died without reporting; nothing was saved yet; start again with: {shlex.join(program())} train -p resume demo"),
    ],
    ids=["failed", "lost"],
)
def test_follow_raises_the_reason_in_one_line(run, change, reason):
    with pytest.raises(WorkbenchError) as error:
        follow(run, lambda: run.set_status(**change))
    assert str(error.value) == reason
    view = Dashboard(run)
    assert view.head["alarms"] == [reason] and view.head["message"] == ""


def test_an_interrupt_is_forwarded_once_and_a_second_one_leaves_the_training_alone(run, capsys):
    interrupt = lambda: signal.raise_signal(signal.SIGINT)  # noqa: E731
    saved = lambda: run.set_status(state="stopped", message="stopped at step 3")  # noqa: E731
    handler = signal.getsignal(signal.SIGINT)
    follow(run, interrupt, lambda: (run.path / "stop").unlink(), saved)  # it waits until all is saved
    assert capsys.readouterr().out.splitlines()[-1] == "stopped at step 3"

    run.set_status(state="running", message="")
    follow(run, interrupt, lambda: (run.path / "stop").unlink(), interrupt)
    assert run.active and not (run.path / "stop").exists()
    assert capsys.readouterr().out.splitlines()[-1] == "demo trains on; to wait for it again: " + Dashboard(run).command("wait=True")
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_followed_run_can_be_followed_again(run):
    async def twice():
        view = Dashboard(run)
        run.set_status(state="stopped")
        await view.follow(poll=0.01)
        run.set_status(state="running")
        again = asyncio.create_task(view.follow(poll=0.01))
        await asyncio.sleep(0.05)
        assert not again.done() and view.waiting
        run.set_status(state="finished")
        await again
        assert not view.waiting

    asyncio.run(twice())


@pytest.mark.slow
def test_papermill_gets_lines_as_they_come_a_picture_and_the_reason_of_a_failure(run, tmp_path):
    log(run, 10)
    source = f"from workbench.widgets import Dashboard\nawait Dashboard({str(run.path)!r}).follow(poll=0.1)"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), tmp_path / "in.ipynb")
    options = ["--log-output", "--no-progress-bar", "-k", "python3"]
    command = [sys.executable, "-m", "papermill", *options, tmp_path / "in.ipynb", tmp_path / "out.ipynb"]
    last = ""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as papermill:
        for line in papermill.stderr:
            if "step 0/400" in line:  # it comes while the cell runs, for what ends the run is this
                run.set_status(state="failed", message="training diverged at step 12")
            last = line.strip() or last
    assert papermill.returncode == 1
    assert last.endswith("WorkbenchError: training diverged at step 12")
    outputs = nbformat.read(tmp_path / "out.ipynb", 4).cells[-1].outputs
    picture = next(output.data for output in outputs if output.output_type == "display_data")
    assert set(picture) == {"image/png", "text/plain"}
    assert outputs[-1].output_type == "error" and outputs[-1].traceback == ["WorkbenchError: training diverged at step 12"]
    assert "widgets" not in nbformat.read(tmp_path / "out.ipynb", 4).metadata
