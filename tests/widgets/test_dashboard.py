# ruff: noqa: RUF001
"""The dashboard without a browser: what it reads from a run folder, what it tells, and when it stops waiting."""

import asyncio
import base64
import io
import json
import re
import signal
import subprocess
import sys

import nbformat
import numpy as np
import pytest
from PIL import Image

from workbench import Config, WorkbenchError
from workbench.runs import Run, create_run
from workbench.widgets import Dashboard, dashboard


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


# ------------------------------------------------------------------------------------------------ what is drawn


def test_thinning_keeps_ends_and_extremes():
    rng = np.random.default_rng(0)
    steps, values = np.arange(100_000) * 10, rng.normal(size=100_000)
    values[[333, 70_001]] = 50, -50
    thin_steps, thin_values = dashboard.thin(steps, values)
    assert 300 <= len(thin_steps) <= 600
    assert (thin_steps[0], thin_steps[-1]) == (0, 999_990)
    assert (thin_values.max(), thin_values.min()) == (50, -50)
    assert (np.diff(thin_steps) > 0).all()
    assert np.array_equal(values[thin_steps // 10], thin_values)


def test_a_thinned_curve_grows_without_flicker():
    values = np.random.default_rng(0).normal(size=5_000)
    before, _ = dashboard.thin(np.arange(4_000), values[:4_000])
    after, _ = dashboard.thin(np.arange(4_700), values[:4_700])
    assert set(before[before < 3_900]) == set(after[after < 3_900])


def test_short_curves_are_left_alone():
    steps, values = dashboard.thin(np.arange(600), np.arange(600.0))
    assert len(steps) == len(values) == 600


def test_charts_name_their_curves_and_leave_out_what_is_not_finite(run):
    log(run, 10, 20, gamma_d32=0.1)
    log(run, 30, loss_g=float("nan"), gamma_d32=0.2)
    losses, outputs, gammas, rates = dashboard.charts(run.history(), [])
    assert [curve["name"] for curve in losses["curves"]] == ["D", "G"]
    assert losses["curves"][1]["steps"] == [10, 20]
    assert [curve["name"] for curve in outputs["curves"]] == ["real", "fake"]
    assert [curve["name"] for curve in gammas["curves"]] == ["G 16", "D 32"]
    assert rates["curves"][0]["values"] == [8e-4] * 3
    json.dumps([losses, outputs, gammas, rates], allow_nan=False)


def test_a_run_without_attention_says_so(run):
    rows = [{"step": 10, "loss_d": 1.0, "loss_g": 0.0}]
    assert dashboard.charts(rows, [])[2] == dict(title="Attention", unit="γ, by map size", zero=True, empty="no attention", curves=[])


def test_each_score_has_a_chart_that_carries_its_protocol(run):
    scores = {100: {"FID": 30.0}, 200: {"FID": 20.0, "IS": 3}}
    evaluations = [{"step": step, "scores": values, "protocol": "n=5000"} for step, values in scores.items()]
    fid, inception = dashboard.charts([], evaluations)[4:]
    assert (fid["title"], fid["unit"], fid["curves"][0]["values"]) == ("FID", "n=5000", [30.0, 20.0])
    assert inception["curves"][0]["steps"] == [200]


def test_scores_of_different_protocols_are_not_one_curve(run):
    rows = [(200, 20.0, "n=5000"), (100, 30.0, "n=5000"), (200, 9.0, "n=50000"), (200, 19.0, "n=5000")]
    evaluations = [{"step": step, "scores": {"FID": value}, "protocol": protocol} for step, value, protocol in rows]
    few, many = dashboard.charts([], evaluations)[4:]
    assert (few["unit"], few["curves"][0]["steps"], few["curves"][0]["values"]) == ("n=5000", [100, 200], [30.0, 19.0])  # the newest
    assert (many["unit"], many["curves"][0]["values"]) == ("n=50000", [9.0])


# ------------------------------------------------------------------------------------------------ diagnostics


def spectra(run: Run, *steps: int, **exact) -> None:
    """Write spectra of two layers, the one of D with an estimate; `exact` replaces the value of G's."""
    for step in steps:
        g = dict(exact=[exact.get("g", 2.0), 1.0], stable_rank=1.5)
        d = dict(exact=[3.0 + step / 100, 1.0], stable_rank=1.5, estimate=2.0, renewed=2.1)
        run.append("spectra.jsonl", dict(step=step, layers={"G/linear": g, "D/blocks.16.conv1": d}))


DIAGNOSED = dict(grad_norm_d=2.0, grad_norm_d_max=3.0, grad_norm_g=0.5, grad_norm_g_max=0.6, saturated_real=0.25, saturated_fake=0.75)


def test_diagnostics_show_gradients_margin_saturation_and_the_layers(run):
    log(run, 10, 20, **DIAGNOSED)
    spectra(run, 0, 20)
    view = Dashboard(run)
    gradients, margin, saturation, of_g, of_d, at_work = view.diagnostics
    assert [(curve["colour"], curve["values"]) for curve in gradients["curves"]] == [
        ("d", [2, 2]), ("d", [3, 3]), ("g", [0.5, 0.5]), ("g", [0.6, 0.6])
    ]  # fmt: skip
    assert margin["curves"][0]["values"] == [0.7, 0.7] and saturation["curves"][1]["values"] == [0.75, 0.75]
    assert of_g["steps"] == [0, 20]
    assert of_g["layers"] == [dict(name="linear", colour="g", curves=[dict(name="exact", values=[2, 2])])]
    assert [curve["values"] for curve in of_d["layers"][0]["curves"]] == [[3, 3.2], [2, 2]]
    assert [(layer["name"], layer["curves"][0]["values"]) for layer in at_work["layers"]] == [
        ("G/linear", [2, 2]), ("D/blocks.16.conv1", [1.5, 1.6])
    ]  # fmt: skip
    assert [chart["title"] for chart in view.charts] == ["Losses", "Output of D", "Attention", "Learning rates"]  # they stay as they were
    spectra(run, 30, g=None)  # not finite
    view.refresh()
    assert view.diagnostics[3]["layers"][0]["curves"][0]["values"] == [2, 2, None]
    json.dumps(view.diagnostics, allow_nan=False)


def test_a_run_without_diagnostics_shows_none(run):
    log(run, 10)
    assert Dashboard(run).diagnostics == []
    spectra(run, 0)  # before the first line of history
    assert [bool(chart["curves"] and chart["curves"][0]["steps"]) for chart in Dashboard(run).diagnostics[:3]] == [False, True, False]


def test_long_diagnostics_are_thinned_without_flicker(run):
    spectra(run, *range(0, 3210, 10))
    steps = Dashboard(run).diagnostics[3]["steps"]
    assert len(steps) <= 100 and (steps[0], steps[-1]) == (0, 3200)
    spectra(run, 3210)
    grown = Dashboard(run).diagnostics[3]["steps"]
    assert set(steps[:-1]) <= set(grown) and grown[-1] == 3210
    assert len(dashboard._thinned_rows(list(range(99)))) == 99


# ------------------------------------------------------------------------------------------------ reading a run


def test_traits_follow_a_history_that_grows_and_shrinks(run):
    view = Dashboard(run)
    losses = lambda: view.charts[0]["curves"][0]["steps"]  # noqa: E731
    assert losses() == [] and view.summary["facts"][0] == ["0 / 400", "steps"]
    log(run, 10, 20, 30)
    run.set_status(step=33)
    view.refresh()
    assert losses() == [10, 20, 30]
    facts = "33 / 400 steps, 8 % done, 8 steps/s, 512 images/s, 0:04 elapsed, 0:46 left"
    assert ", ".join(" ".join(fact) for fact in view.summary["facts"]) == facts
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


def test_the_newest_samples_are_part_of_the_state(run):
    view = Dashboard(run)
    png = sample(run, 0)
    view.refresh()
    assert (view.samples, view.preview) == ([0], png)
    sample(run, 100, size=1000)  # too large for a notebook
    view.refresh()
    assert view.samples == [0, 100] and len(view.preview) < 120_000
    assert Image.open(io.BytesIO(view.preview)).size == (600, 600)


def test_the_front_end_gets_the_samples_it_asks_for(run, monkeypatch):
    png = sample(run, 100)
    view, sent = Dashboard(run), []
    monkeypatch.setattr(view, "send", lambda content, buffers: sent.append((content, buffers)))
    for step in (100, 200):
        view._handle_custom_msg({"kind": "sample", "step": step}, [])
    assert sent == [({"kind": "sample", "step": 100}, [png]), ({"kind": "sample", "step": 200}, [])]


@pytest.mark.parametrize("content", [None, [], {}, dict(kind=3), dict(kind="sample"), dict(kind="sample", step="x"), dict(kind="sample", step=-1),
                                     dict(kind="sample", step=10**400), dict(kind="sample", step=float("nan")), dict(kind="free")])  # fmt: skip
def test_malformed_messages_are_no_trace(run, content, monkeypatch):
    view = Dashboard(run)
    monkeypatch.setattr(view, "send", lambda *_: pytest.fail("nobody asked"))
    view._receive(view, content, [])


@pytest.mark.parametrize("content", [b"", bytes(50), b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_damaged_samples_are_told_where_they_would_be(run, content, monkeypatch):
    png = sample(run, 50)
    run.sample_path(100).write_bytes(content)
    view, sent = Dashboard(run), []
    assert view.samples == [50, 100] and view.preview == b"" and "unreadable" in view.summary["alarms"][0]
    monkeypatch.setattr(view, "send", lambda content, buffers: sent.append((content, buffers)))
    for step in (50, 100):
        view._receive(view, dict(kind="sample", step=step), [])
    assert sent[0] == (dict(kind="sample", step=50), [png])
    assert sent[1][0]["reason"].startswith("unreadable: ") and sent[1][1] == []
    run.set_status(state="finished", step=400)
    assert "image/png" in Dashboard(run)._repr_mimebundle_()[0]
    sample(run, 100)
    view.refresh()
    assert view.preview and not view.summary["alarms"]


def test_damaged_files_leave_the_rest_of_the_view(run, capsys):
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
    view = Dashboard(run)
    json.dumps([view.charts, view.diagnostics, view.summary], allow_nan=False)
    assert view.charts[0]["curves"][0]["steps"] == [10, 20] and view.charts[4]["title"] == "<b>"
    assert view.line()
    for file in ("status.json", "config.json"):
        (run.path / file).write_text("{")
        view.refresh()
        assert view.summary["state"] == "unreadable" and f"unreadable: {run.path / file}" in view.summary["alarms"][0]
        json.dumps(view.summary, allow_nan=False)
        assert view.line() and repr(view) and Dashboard(run).charts
        with pytest.raises(WorkbenchError, match="unreadable"):
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
        json.dumps(Dashboard(run).summary, allow_nan=False)


def test_hostile_names_are_plain_text_in_the_summary(run):
    nasty = "<img src=x onerror=alert(1)>"
    run.set_status(alarms=[nasty], message=nasty)
    head = Dashboard(run).summary
    assert head["alarms"] == [nasty] and head["message"] == nasty
    script = dashboard.source("dashboard.js")
    assert not any(word in script for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("))


def test_the_stop_button_asks_the_training_to_stop(run):
    view = Dashboard(run.name)
    view._handle_custom_msg({"kind": "stop"}, [])
    view.refresh()
    assert (run.path / "stop").exists()
    assert view.summary["badge"] == "stopping…" and view.summary["active"]


def test_the_saved_state_is_small(run):
    log(run, *range(10, 1_000_010, 10), gamma_g32=0.123456789, gamma_d16=0.1, gamma_d32=-0.1, **DIAGNOSED)
    layers = {f"{net}/blocks.{k}.conv1": dict(exact=[1.234567, 1.1], estimate=1.234567) for k in range(25) for net in "GD"}
    for step in range(0, 1_000_000, 5000):
        run.append("spectra.jsonl", dict(step=step, layers=layers))
    sample(run, 1_000_000, size=195)
    state = Dashboard(run).get_state()
    assert len(state["preview"]) > 110_000
    assert len(state["charts"][0]["curves"][0]["steps"]) > 3
    assert len(json.dumps(state, default=lambda png: base64.b64encode(png).decode())) < 300_000


def test_an_ended_run_carries_a_picture(run):
    log(run, 10, 20)
    sample(run, 20)
    data, _ = Dashboard(run)._repr_mimebundle_()
    assert set(data) == {"text/plain"}  # the training goes on: the picture comes at its end
    run.set_status(state="finished", step=400)
    data, _ = Dashboard(run)._repr_mimebundle_()
    assert data["text/plain"] == "Dashboard('demo', finished, step 400 of 400)"
    assert Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).format == "PNG"


def test_a_front_end_gets_the_widget_too(run, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HEADLESS", "0")
    log(run, 10)
    run.set_status(state="finished")

    async def bundle():
        return Dashboard(run)._repr_mimebundle_()[0]

    assert {"application/vnd.jupyter.widget-view+json", "image/png"} <= set(asyncio.run(bundle()))


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
        (dict(born=0), "died without reporting; nothing was saved yet; start again with: papermill train.ipynb -p resume demo"),
    ],
    ids=["failed", "lost"],
)
def test_follow_raises_the_reason_in_one_line(run, change, reason):
    with pytest.raises(WorkbenchError) as error:
        follow(run, lambda: run.set_status(**change))
    assert str(error.value) == reason
    view = Dashboard(run)
    assert view.summary["alarms"] == [reason] and view.summary["message"] == ""


def test_an_interrupt_is_forwarded_once_and_a_second_one_leaves_the_training_alone(run, capsys):
    interrupt = lambda: signal.raise_signal(signal.SIGINT)  # noqa: E731
    saved = lambda: run.set_status(state="stopped", message="stopped at step 3")  # noqa: E731
    handler = signal.getsignal(signal.SIGINT)
    follow(run, interrupt, lambda: (run.path / "stop").unlink(), saved)  # it waits until all is saved
    assert capsys.readouterr().out.splitlines()[-1] == "stopped at step 3"

    run.set_status(state="running", message="")
    follow(run, interrupt, lambda: (run.path / "stop").unlink(), interrupt)
    assert run.active and not (run.path / "stop").exists()
    assert capsys.readouterr().out.splitlines()[-1] == "demo trains on; to wait for it again: await Dashboard('demo').follow()"
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
