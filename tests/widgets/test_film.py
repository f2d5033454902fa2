"""Films in a real Chromium, as a page and as a video; test_browser.py shows one in JupyterLab."""

import base64
import io

import numpy as np
import pytest
from lab import wait_until
from PIL import Image

import workbench as wb
from workbench.figures.film import Stage

pytestmark = pytest.mark.slow


def offline(browser, **options):
    """A page that opens files only, and the errors on it."""
    page, errors = browser.new_page(**options), []
    page.route("**", lambda route: route.continue_() if route.request.url.startswith(("file:", "data:")) else route.abort())
    page.on("console", lambda message: message.type == "error" and errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    return page, errors


def pixels(locator):
    return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB")).astype(float)


def heading(view):
    return view.locator("h2").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_plays_seeks_and_needs_nothing_else(browser, tmp_path, scheme):
    page, errors = offline(browser, color_scheme=scheme)
    page.goto(wb.film("demo").save(tmp_path / "film.html", seconds=2).as_uri())
    view = page.locator(".wb.film")
    assert heading(view) == "step 3,700" and view.locator(".caption").inner_text().startswith("Above: the latents")
    newest = pixels(view.locator(".pictures"))

    page.keyboard.press("Tab")
    for key, step in (("ArrowLeft", "3,300"), ("Home", "100"), ("ArrowRight", "500"), ("ArrowLeft", "100")):
        page.keyboard.press(key)
        assert heading(view) == f"step {step}" and view.locator("output").inner_text() == step
    assert "loss D 1.94, G 0.46" in view.locator("header").inner_text()
    assert np.abs(pixels(view.locator(".pictures")) - newest).mean() > 5
    page.keyboard.press(" ")
    view.get_by_role("button", name="Pause").wait_for()
    view.get_by_role("button", name="Play").wait_for()  # at the end, after two seconds
    assert heading(view) == "step 3,700"

    # A click on a curve goes to the nearest step; what comes later is pale.
    panel = view.locator(".panel").first
    box = panel.bounding_box()
    panel.click(position=dict(x=box["width"] * 1700 / 4000, y=box["height"] / 2))
    assert heading(view) == "step 1,700"
    curve = pixels(panel)
    colourful = (curve.max(2) - curve.min(2)) > 90
    half = round(colourful.shape[1] * 1700 / 4000)
    assert colourful[:, : half - 5].sum() > 300 > 10 > colourful[:, half + 5 :].sum()
    view.get_by_role("slider").fill("2")
    assert heading(view) == "step 900"
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    page.set_viewport_size(dict(width=380, height=700))
    assert page.evaluate("document.documentElement.scrollWidth") <= 380 and errors == []
    page.close()


def test_chromium_shows_the_drawn_pictures_of_a_video(browser, tmp_path):
    view = wb.film("demo")
    content = base64.b64encode(view.save(tmp_path / "film.mp4", seconds=2).read_bytes()).decode()
    page, errors = offline(browser, viewport=dict(width=1300, height=740))
    page.set_content(f'<body style="margin: 0"><video muted src="data:video/mp4;base64,{content}"></video>')
    video = page.locator("video")
    wait_until(lambda: video.evaluate("video => video.readyState") >= 2)
    assert video.evaluate("video => [video.videoWidth, video.videoHeight, video.duration]") == [1280, 720, pytest.approx(2, abs=0.06)]
    stage = Stage(view.film)
    drawn = [np.asarray(stage.draw(view.film.frame(step))).astype(float) for step in view.film.steps]
    for number in (0, 4, 9):
        seeked = "(video, time) => new Promise((resolve) => { video.onseeked = resolve; video.currentTime = time; })"
        video.evaluate(seeked, 0.2 * number + 0.1)
        shown = pixels(video)
        errors_of = [np.abs(shown - picture).mean() for picture in drawn]
        assert np.argmin(errors_of) == number and errors_of[number] < 1.5, errors_of
    assert errors == []
    page.close()
