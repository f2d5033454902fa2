import sys
import weakref

import av
import numpy as np
import pytest
from PIL import Image

from workbench import WorkbenchError
from workbench.figures import film as films
from workbench.figures.charts import Axis, Chart, Line, Panel
from workbench.figures.film import Film, Frame, Stage, evenly, fitted, svg_chart
from workbench.figures.video import write_video


@pytest.fixture
def film():
    """Six steps whose samples have colours of their own."""

    def frame(step):
        samples = Image.new("RGB", (100, 60), (40 * step, 255 - 40 * step, 120))
        maps = Image.new("RGBA", (66, 16), (0, 0, 40 * step, 255))
        return Frame(step, samples, maps, f"loss D {step}.0")

    line = Line(tuple(range(6)), (1.0, 2.0, 1.5, 1.0, 3.0, 2.0), "D", "#1f77b4")
    panels = tuple(Panel(title, Axis(range=(0.0, 5.0)), lines=(line,)) for title in ("hinge losses", "gamma"))
    return Film(
        "run $x^2$ 猫", "All steps.", tuple(range(6)), frame, Chart("", panels, columns=1, legend="panels"), ((0.5, 0.5, "#ff3b30"),)
    )


def pictures(film, dpi=100):
    stage = Stage(film, dpi)
    return [stage.draw(film.frame(step)) for step in film.steps]


def test_pictures_show_their_step(film):
    drawn = [np.asarray(picture).astype(int) for picture in pictures(film)]
    assert {picture.shape for picture in drawn} == {(720, 1280, 3)}
    for step, picture in enumerate(drawn):
        assert tuple(picture[250, 300]) == (40 * step, 255 - 40 * step, 120)  # in the middle of the samples
    # What comes after the step is pale.
    (left, bottom, right, top), _ = Stage(film)._panels[0]
    for step, picture in enumerate(drawn):
        blue = (picture[..., 2] - picture[..., 0] > 100)[720 - top : 720 - bottom, left:right]
        assert np.flatnonzero(blue.any(0)).max(initial=0) / (right - left) == pytest.approx(step / 5, abs=0.02)
    assert not np.array_equal(drawn[1][20:60, :300], drawn[2][20:60, :300])  # the number of the step


def test_images_are_enlarged_without_blur():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (6, 10, 3), dtype=np.uint8))
    large = fitted(image, 105, 300)
    assert large.size == (100, 60) and np.array_equal(np.asarray(large)[5::10, 5::10], image)
    assert fitted(image, 25, 25).size == (25, 15)
    huge = Image.new("RGB", (2000, 1000), "red")
    assert fitted(huge, 100, 100).size == (100, 50)


@pytest.mark.parametrize(("ending", "dpi", "tolerance"), [(".mp4", 50, 2.0), (".gif", 50, 2.0)])
def test_files_hold_the_drawn_pictures(film, tmp_path, ending, dpi, tolerance):
    """Decoded, every picture is nearest to the one that was drawn, at its time."""
    drawn = pictures(film, dpi)
    path = tmp_path / f"film{ending}"
    write_video(path, iter(drawn), drawn, len(drawn), seconds=3)
    with av.open(path) as file:
        stream = file.streams.video[0]
        if ending == ".mp4":
            assert (stream.codec.name, stream.pix_fmt, float(file.duration / 1e6)) == ("h264", "yuv420p", 3.0)
            assert stream.width % 2 == stream.height % 2 == 0
        times = []
        for frame in file.decode(stream):
            step = int(float(frame.pts * frame.time_base) / 0.5 + 1e-6)
            times.append(step)
            errors = [np.abs(frame.to_ndarray(format="rgb24").astype(int) - picture).mean() for picture in drawn]
            assert np.argmin(errors) == step and errors[step] < tolerance
    assert sorted(set(times)) == list(range(6))
    if ending == ".gif":
        with Image.open(path) as image:
            durations = [image.seek(k) or image.info["duration"] for k in range(image.n_frames)]
            assert durations == [500] * 6 and image.info["loop"] == 0  # endless


@pytest.mark.parametrize("ending", [".mp4", ".gif"])
def test_pictures_are_drawn_one_by_one(film, tmp_path, ending):
    alive, drawn_so_far = [], []

    def drawn():
        for k in range(20):
            picture = Image.new("RGB", (512, 288), (k, k, k))
            drawn_so_far.append(weakref.ref(picture))
            alive.append(sum(known() is not None for known in drawn_so_far))
            yield picture

    write_video(tmp_path / f"film{ending}", drawn(), pictures(film, 40)[:1], 20, seconds=2)
    assert len(alive) == 20 and max(alive) <= 3


def test_an_error_leaves_the_old_file(film, tmp_path):
    def failing():
        yield from pictures(film, 40)[:2]
        raise KeyboardInterrupt

    (tmp_path / "film.mp4").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "film.mp4", failing(), pictures(film, 40)[:1], 6, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"] and (tmp_path / "film.mp4").read_text() == "old"


def test_without_the_encoder_a_line_says_what_to_install(film, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(WorkbenchError, match="pip install av"):
        write_video(tmp_path / "film.mp4", iter(()), [], 1, 1)


def test_the_chart_of_a_page_has_the_ink_of_its_host(film):
    text, panels = svg_chart(film.chart)
    assert text.startswith("<svg") and "currentColor" in text and "#000000" not in text and "#1f77b4" in text
    assert text != svg_chart(film.chart)[0]  # several may stand on a page
    assert [(panel["first"], panel["last"]) for panel in panels] == [(0, 5), (0, 5)]
    assert all(0 < panel["left"] < panel["right"] < 1 and 0 < panel["top"] < panel["bottom"] < 1 for panel in panels)


def test_steps_are_chosen_evenly():
    assert evenly(range(10), 4) == [0, 3, 6, 9] and evenly([5, 7], 10) == [5, 7]
    assert films.WIDTH * 100 % 2 == films.HEIGHT * 100 % 2 == films.WIDTH * 75 % 2 == films.HEIGHT * 75 % 2 == 0
