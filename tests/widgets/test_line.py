"""Views as lines of text: whatever a view is, its line opens it again, in Python, in a shell and in the browser."""

import json
import random
import re
import shlex
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench import AttentionInspector, AttentionView, ParameterError, WorkbenchError, figures, templates
from workbench.cli import main
from workbench.paths import name_fault
from workbench.views.inspected_run import InspectedRun
from workbench.views.view_line import ViewLine, class_of, class_text
from workbench.widgets.bundle import bundle
from workbench.widgets.inspector.line import CHOICES, NUMBERS, line_of, view_of
from workbench.widgets.inspector.requests import DEFAULT_VIEW

LAYERS = [dict(id="G/attention.16", side=16, key_side=8), dict(id="D/attention.32", side=32, key_side=32)]
CLASSES = ["disc", "ring", "a b", "5", "ring", "tench, Tinca tinca", "café", "x=y&z"]
MOST = 2**53 - 1

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda name: not name_fault(name))
runs = names | st.sampled_from(["demo", "twins32-lr_d=1e-3", "my run's #1 & $HOME/`x`", "gamma=0.5", "猫", "50%25", "~a", "/tmp/a@b/c"])


def entry(name, side, key_side):
    """Values of an entry of the view, by the type of its default: a new entry is tested without a word here."""
    default = DEFAULT_VIEW[name]
    cells = {"pins": (side**2, 8), "forbid": (key_side**2, 40), "paint": (key_side**2, 40)}
    if name in cells:
        count, most = cells[name]
        return st.lists(st.integers(0, count - 1), max_size=most, unique=True)
    if name in CHOICES:
        return st.sampled_from(CHOICES[name])
    if name == "towards":
        return st.none() | st.lists(st.integers(0, MOST), min_size=2, max_size=2)
    if name in NUMBERS:
        return st.none() | (st.integers(0, MOST) if isinstance(NUMBERS[name], int) else st.floats(-10, 10))
    if name == "paint_shift":
        return st.lists(st.integers(-9, 9), min_size=2, max_size=2)
    if name == "directions":
        return st.lists(st.floats(-100, 100), max_size=6)
    if name == "class":
        return st.integers(-1, len(CLASSES) - 1)
    kinds = {bool: st.booleans(), int: st.integers(0, MOST), float: st.floats(0, 100) | st.integers(0, 2), str: st.text(max_size=6)}
    return st.lists(st.integers(0, MOST), max_size=4) if isinstance(default, list) else kinds[type(default)]


@st.composite
def views(draw):
    """A view, with the catalogs of its runs."""
    layer = draw(st.sampled_from(LAYERS))
    view = {name: draw(st.just(DEFAULT_VIEW[name]) | entry(name, layer["side"], layer["key_side"])) for name in DEFAULT_VIEW}
    names = [draw(runs), *draw(st.lists(runs | st.just("gamma0"), max_size=1))]
    view |= dict(layer=layer["id"], steps=draw(st.lists(st.integers(0, MOST), max_size=len(names))))
    view["active"] = draw(st.integers(0, len(view["pins"]) - 1)) if view["pins"] else -1
    return view, [dict(name=name, label=name, layers=LAYERS, classes=CLASSES) for name in names]


@given(views())
def test_a_view_is_what_its_line_says(drawn):
    view, catalogs = drawn
    line = line_of(view, catalogs)
    words = ViewLine.read(line)
    assert view_of(words, catalogs) == view and str(words) == line
    assert (words.run, words.beside) == (catalogs[0]["name"], catalogs[1]["name"] if len(catalogs) > 1 else "")
    assert ViewLine.read(f"file:///a/view.html#{line.replace(' ', '&')}") == words == ViewLine.read(f"  {line}\n")
    for word in line.split(" "):  # no quotes are needed
        assert shlex.split(word) == [word] and (shlex.quote(word) == word or not word.isascii())
    assert all(name in line for name in view if name not in ("layer", "steps", "active") and view[name] != DEFAULT_VIEW[name])


def test_every_class_is_found_again():
    """Also where a name is the number of another class, or is no plain word."""
    assert [class_text(k, CLASSES) for k in range(-1, 8)] == ["-1", "disc", "1", "2", "3", "4", "5", "café", "7"]
    assert [class_of(class_text(k, CLASSES), CLASSES) for k in range(-1, 8)] == list(range(-1, 8))
    assert class_of("a%20b", CLASSES) == 2


@pytest.mark.parametrize("name", [name for name in DEFAULT_VIEW if name not in ("layer", "steps")])
def test_every_entry_is_in_the_line_and_only_if_it_is_not_the_default(name):
    info = dict(name="demo", label="demo", layers=LAYERS, classes=CLASSES)
    other = {
        "pins": [3, 4, 5, 40],
        "forbid": [0, 1, 2, 63],
        "towards": [3, 7],
        "class": 0,
        "active": 1,
        "paint": [3, 4],
        "gamma": -0.5,
        "paint_from": 3,
    } | {choice: values[-1] for choice, values in CHOICES.items()}
    default = DEFAULT_VIEW[name]
    value = other[name] if name in other else not default if isinstance(default, bool) else 0.25 if isinstance(default, float) else [2, 3]
    value = 9 if type(default) is int and name not in other else value
    view = DEFAULT_VIEW | {"layer": "G/attention.16"} | ({"pins": [1, 2]} if name == "active" else {}) | {name: value}
    view["active"] = value if name == "active" else 0 if view["pins"] else -1
    line = line_of(view, [info])
    pins = " pins=0,1-2" if name == "active" else ""
    assert re.fullmatch(rf"demo G/attention\.16{pins} {name}=\S+", line), line
    assert view_of(ViewLine.read(line), [info]) == view


def test_a_shell_passes_the_line_on_as_it_is():
    view = DEFAULT_VIEW | {"layer": "G/attention.16", "pins": [5, 17], "active": 0, "class": 2, "forbid": [0, 1, 2]}
    line = line_of(view, [dict(name="it's $HOME & (more) ~ * ? {a,b} !x", label="", layers=LAYERS, classes=CLASSES)])
    done = subprocess.run(["bash", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, check=True)
    assert (
        done.stdout.split() == line.split()
        and view_of(ViewLine.read(done.stdout), [dict(layers=LAYERS, classes=CLASSES, label="")]) == view
    )


BAD = [
    ("", "line is empty; it begins with a run"), ("nope", "there is no run 'nope'"), ("demo@x", "'x' is not a step"),
    ("demo@77", "has no checkpoint at step 77"), ("demo@77 source=recorded", "has no snapshot of step 77; it has: 100, 500"),
    ("demo G/attention.9", "did you mean"), ("demo G/attention", "'G/attention' is not a layer such as G/attention.32"),
    ("demo G/attention.32 D/attention.16", "'D/attention.16' is neither"), ("demo sede=3", "there is no 'sede'; did you mean 'seed'"),
    ("demo seed=x", "seed='x' is not a whole number"), ("demo seed=1.5", "is not a whole number"), ("demo seed=-1", "seed=-1 is not"),
    ("demo seed=" + "9" * 400, "is not a whole number"), ("demo seed=²", "is not a whole number"), ("demo mix=nan", "is not a number"),
    ("demo seed=3 seed=4", "has seed twice"), ("demo steps=3", "there is no 'steps'"), ("demo gamma0=yes", "is not true or false"),
    ("demo pins=5", "'5' is not row,column, each from 0 to 31"), ("demo pins=1,9-2", "is not row,column"), ("demo pins=99,1", "is not row,column"),
    ("demo pins=0,0-8", "pins are 9 places; at most 8"), ("demo pins=1,1 active=2", "active=2 is none of the 1 pins"),
    ("demo reading=entropi", "did you mean 'entropy'"), ("demo class=rong", "class='rong' is no class; did you mean 'ring'"),
    ("demo class=9", "class='9' is no class; there are 6"), ("demo towards=x", "line: towards='x': 'x' is not a seed"), ("demo opacity=3", "opacity=3"),
    ("demo gamma=x", "gamma='x' is not a number"), ("demo paint_from=0.5", "is not a whole number"), ("demo paint=99,1", "is not row,column"),
    ("demo paint=1,1 paint_shift=1", "paint_shift=(1,) is not"), ("demo directions=500", "directions=[500] "), ("demo source=real", "source='real' needs a layer of D"), ("demo beside=nope", "there is no run 'nope'"),
    ("demo =3", "is neither a layer"), ("demo truncation=1e999", "is not a number"), ("demo source=recorded beside=gamma0", "has no snapshot"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "says"), BAD)
def test_what_does_not_fit_is_one_line(line, says):
    with pytest.raises(WorkbenchError) as caught:
        AttentionInspector.from_line(line)
    assert says in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_inspectors_open_from_their_lines(monkeypatch):
    monkeypatch.setenv("WORKBENCH_HEADLESS", "1")
    changes = dict(
        sample=4, pins=[37, 200], active=1, reading="causal", scale="uniform", opacity=0.25, explain=True, forbid=[3, 4], scope="pins"
    )
    for a, b, more in (
        ("demo", None, changes), ("demo@500", "@100", dict(seed=3)), ("demo", "gamma=0", dict(mix=0.5, towards=[1, 2])),
        ("demo", None, dict(directions=[0.5, -1e-05], gamma=0.0, paint=[3, 4], paint_shift=[0, -2], tool="paint", overview=True)),
        ("demo", None, dict(gamma0=True, measure=True, paint=[9], paint_from=5)),
        ("demo", None, dict(source="recorded", steps=[900], layer="D/attention.16", pins=[], active=-1)),
        ("demo", None, dict(layer="D/attention.16", source="real", pins=[9])),
    ):  # fmt: skip
        inspector = AttentionInspector(a, b)
        inspector.view = inspector.view | more
        again = AttentionInspector.from_line(inspector.line)
        assert again.view == inspector.view and again.line == inspector.line
        assert [(run.name, run.gamma0) for run in again.runs] == [(run.name, run.gamma0) for run in inspector.runs]
    first = again.line
    assert AttentionInspector(view=AttentionView(line=first)).line == first
    typed = AttentionInspector.from_line("demo@500 beside=gamma0")
    assert typed.view["steps"] == [500, 500] and typed.runs[1].gamma0 and typed.view["layer"] == "G/attention.32"
    assert AttentionInspector.from_line("demo beside=@100").view["steps"] == [4000, 100]


def test_a_saved_figure_keeps_the_line(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_HEADLESS", "1")
    inspector = AttentionInspector.from_line("demo@500 G/attention.16 sample=2 pins=3,4 class=ring")
    sidecar = inspector.save(tmp_path / "view.png").with_name("view.png.json")
    line = json.loads(sidecar.read_text())["view"]
    assert line == inspector.line == "demo@500 G/attention.16 sample=2 pins=3,4 class=ring"
    assert AttentionInspector.from_line(line).figure().description == inspector.figure().description == figures.redraw(sidecar).description


def test_the_notebook_shows_the_line(monkeypatch):
    view = AttentionView(line="demo@500 D/attention.16 seed=3 sample=5 pins=5,11+6,2 reading=incoming class=cross")
    (request,) = view.requests(view.runs()[0])
    assert (request.layer, request.step, request.seed, request.sample, request.label) == ("D/attention.16", 500, 3, 5, 3)
    (seen,) = view.inspections()
    assert seen.queries == (5 * 16 + 11, 6 * 16 + 2) and view.reading == "incoming"
    recorded = AttentionView(line="demo@900 source=recorded sample=1")
    assert recorded.requests(InspectedRun("demo"))[0].step == 900
    for values, says in ((dict(run="demo"), "leave run or line out"), (dict(queries="1,1"), "leave queries or line out")):
        with pytest.raises(ParameterError, match=says):
            AttentionView(line="demo", **values)
    calls = []
    monkeypatch.setattr(templates, "execute", lambda name, parameters, out: calls.append((name, dict(parameters), out.parent.name)) or 0)
    assert main(["attention", "demo@500", "G/attention.16", "pins=5,11", "-p", "n", "4"]) == 0
    assert calls == [("attention", dict(n="4", line="demo@500 G/attention.16 pins=5,11"), "demo")]


def test_a_line_that_does_not_fit_stops_the_command_before_it_starts(capsys):
    assert main(["attention", "demo", "sede=3"]) == 2
    assert "did you mean 'seed'" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------- in the browser


@pytest.mark.slow
def test_the_browser_reads_and_writes_the_same_lines(browser):
    drawn = []

    @given(views())
    def collect(view):
        drawn.append(view)

    collect()
    cases = []
    for view, catalogs in random.Random(0).sample(drawn, 40):
        line = line_of(view, catalogs)
        cases.append(dict(view=view, catalogs=catalogs, line=line, address=line.replace(" ", "&")))
    page = browser.new_page()
    page.add_script_tag(content=bundle("line.js"))
    script = """({ cases, defaults }) => cases.map(({ view, catalogs, line, address }) => {
      const hash = new URL(`file:///a.html#${address}`).hash.slice(1); // as a browser writes it
      return { line: lineOf(view, catalogs, defaults), views: [line, hash].map((text) => viewOf(text, catalogs, defaults)) };
    })"""
    for case, answer in zip(cases, page.evaluate(script, dict(cases=cases, defaults=DEFAULT_VIEW)), strict=True):
        # Whether a sign other than ASCII is written as it is may differ; what it means may not.
        assert ViewLine.read(answer["line"]) == ViewLine.read(case["line"])
        for opened in answer["views"]:
            assert opened["run"] == case["catalogs"][0]["name"]
            assert {**opened["view"], "steps": case["view"]["steps"]} == case["view"]
            assert opened["view"]["steps"] == case["view"]["steps"][: len(case["catalogs"])]
    for line in ("demo sede=3", "demo seed=x", "demo pins=99,1", "demo class=rong", "demo gamma0=yes", "demo towards=3", "demo %E0%A4%A=1"):
        says = page.evaluate(
            "([line, catalogs, defaults]) => { try { viewOf(line, catalogs, defaults); } catch (error) { return error.message; } }",
            [line, [dict(name="demo", layers=LAYERS, classes=CLASSES)], DEFAULT_VIEW],
        )
        assert says and says.startswith("line: ")
    page.close()


@pytest.mark.slow
def test_a_copied_view_opens_with_the_same_picture(browser, tmp_path, monkeypatch):
    """In a page: the address that was copied; from it, in Python, another page."""
    monkeypatch.setenv("WORKBENCH_HEADLESS", "1")
    path = AttentionInspector("demo").save(tmp_path / "view.html")
    context = browser.new_context(viewport={"width": 1300, "height": 1000})
    page = context.new_page()
    page.goto(path.as_uri())
    view = page.locator(".wb.inspector")
    view.locator(".thumbs button").nth(5).click()
    view.get_by_role("button", name="16×16").click()  # noqa: RUF001
    view.get_by_role("button", name="Seen by").click()
    view.locator(".stage").click(position=dict(x=100, y=200))
    view.locator(".stage").click(position=dict(x=300, y=100), modifiers=["Shift"])
    view.get_by_role("button", name="× uniform").click()  # noqa: RUF001
    view.get_by_role("button", name="Copy this view").click()
    address = view.get_by_label("This view as a line").input_value()
    assert address.startswith(path.as_uri() + "#demo@4000&G/attention.16&sample=5")

    def picture(url):
        other = context.new_page()
        other.goto(url)
        other.mouse.move(1, 1)
        other.wait_for_timeout(300)
        shown = other.locator(".wb.inspector")
        assert shown.locator(".stale").count() == 0
        return [shown.locator(part).screenshot() for part in (".stage", ".side", ".pins")]

    page.mouse.move(1, 1)
    page.wait_for_timeout(300)
    expected = [view.locator(part).screenshot() for part in (".stage", ".side", ".pins")]
    assert picture(address) == expected
    again = AttentionInspector.from_line(address)
    assert picture(again.save(tmp_path / "again.html").as_uri()) == expected

    # What this page does not hold is said; the rest opens.
    page.goto(f"{path.as_uri()}#other@500&G/attention.16&seed=3&pins=1,1")
    says = view.get_by_role("alert").inner_text()
    assert "This page shows demo, not other." in says and "does not hold the class, seed, steps of that view" in says
    assert view.locator(".stale").count() == 0 and view.locator(".stage .pin").count() == 1
    page.evaluate("location.hash = 'demo&sede=3'")
    page.wait_for_timeout(100)
    assert "there is no entry sede=3" in view.get_by_role("alert").inner_text()
    context.close()
