"""The film of a run, against its folder read by hand."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

import workbench as wb
from workbench import ParameterError, WorkbenchError
from workbench.attention import salient_positions
from workbench.attention.snapshots import load_snapshot
from workbench.cli import main
from workbench.figures.film import over_image
from workbench.runs import Run


def film(*arguments, **options):
    return wb.film(*arguments, **options).film


@pytest.fixture
def run(trained_once):
    """Samples at steps 0 to 4."""
    return trained_once(attention_g="8,16", sample_every=1, log_every=1)


def test_every_step_has_the_newest_of_everything_until_it(run):
    for step in (0, 2, 3):
        run.attention_path(step).unlink()
    rows = [json.loads(line) for line in (run.path / "history.jsonl").read_text().splitlines()]
    (run.path / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows if row["step"] != 3))
    shown = film(run.reference, layer=8, sample=2, queries="1,2; 7,0")
    assert shown.steps == (0, 1, 2, 3, 4)
    snapshots = {step: load_snapshot(run.attention_path(step)) for step in (1, 4)}
    for step, known in ((0, None), (1, 1), (2, 1), (3, 1), (4, 4)):
        frame = shown.frame(step)
        assert np.array_equal(frame.samples, Image.open(run.sample_path(step)).convert("RGB"))
        strip = np.asarray(frame.maps)
        assert strip.shape == (32, 3 * 32 + 2 * 2, 4)
        if known is None:  # nothing was recorded yet
            assert not strip.any() and frame.numbers == ""
            continue
        assert np.array_equal(strip[:, :32, :3], snapshots[known].images[2].permute(1, 2, 0))
        layer = snapshots[known].layers["G/attention.8"]
        for tile, query in ((1, 10), (2, 56)):
            weights = torch.softmax((layer.query[2, query] * layer.key[2]).sum(1), 0).view(4, 4)  # of the pooled keys
            place = np.log(np.maximum(weights.numpy().astype(float) * 16, 1)) / np.log(16)
            expected = over_image(strip[:, :32, :3], place.repeat(2, 0).repeat(2, 1))
            left = tile * 34
            np.testing.assert_allclose(strip[:, left : left + 32, :3].astype(int), expected, atol=1)
        row = rows[min(step, {3: 2}.get(step, step)) - 1]
        assert frame.numbers.startswith(f"loss D {row['loss_d']:.2f}, G {row['loss_g']:.2f} · gamma g8 {row['gamma_g8']:+.3f}")
    # Dots: on the image, and each on its map, in the middle of its position.
    assert [(round(x * 100, 3), round(y * 32, 3)) for x, y, _ in shown.dots] == [(10, 6), (44, 6), (2, 30), (70, 30)]
    assert "latent 2" in shown.caption and "uniform (1/16)" in shown.caption and "newest snapshot until the step" in shown.caption


def test_uniform_attention_shows_no_structure():
    image = np.full((32, 32, 3), 160, np.uint8)
    flat, one = (over_image(image, np.full((8, 8), value)) for value in (0.0, 1.0))
    assert len(np.unique(flat.reshape(-1, 3), axis=0)) == 1 and flat.max() < 70 < 200 < one.max()


def test_positions_are_salient_in_the_last_image(run):
    image = load_snapshot(run.attention_path(4)).images[0].float() / 127.5 - 1
    places = [divmod(query, 16) for query in salient_positions(image, 16)]
    dots = film(run).dots[::2]
    assert [(round(y * 16 - 0.5), round(x * 134 / 2 - 0.5)) for x, y, _ in dots] == places  # 4 tiles of 32 with gaps of 2


def test_the_demo_has_the_images_of_its_snapshots():
    shown = film("demo", network="D")
    assert shown.steps == tuple(Run("demo").attention_steps()) and "D/attention.16" in shown.caption
    assert shown.frame(500).samples.size == (4 * 34 + 2, 36) and "fd_twins" in shown.frame(900).numbers
    assert [panel.title for panel in shown.chart.panels][2].startswith("fd_twins")


def test_runs_without_attention_or_classes(trained_once):
    shown = film(trained_once(attention_g="none", attention_d="none", num_classes=0, sample_every=2))
    frame = shown.frame(shown.steps[-1])
    assert frame.maps is None and shown.dots == () and "Maps" not in shown.caption and "gamma" not in frame.numbers
    assert [panel.title for panel in shown.chart.panels] == ["hinge losses", "D's output"]


def test_mistakes_are_one_line(run, make, tmp_path, capsys):
    with pytest.raises(WorkbenchError, match="has no samples yet; they come every 100 steps"):
        film(make("empty").name)
    for step in (1, 2, 3, 4):
        run.sample_path(step).unlink()
    shutil.rmtree(run.path / "attention")
    with pytest.raises(WorkbenchError, match="samples of step 0 alone; a film needs two steps"):
        film(run)
    for words, message in (
        (("--out", "film.avi"), "film.avi' ends in '.avi'; a film can be .mp4, .gif or .html"),
        (("--seconds", "0"), "seconds=0.0 is not a duration"), (("--seconds", "nan"), "seconds=nan"),
        (("--sample", "9"), "sample=9: the training recorded 4 latents"), (("--layer", "7"), "layer=7"),
        (("--network", "Q"), "network='Q'"), (("--queries", "40,1"), "40,1"),
    ):  # fmt: skip
        assert main(["film", "demo", *words]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    plain = make("plain", attention_g="none", attention_d="none")
    with pytest.raises(ParameterError, match="layer=8: run 'plain' has no attention layer"):
        film(plain.name, layer=8)


def test_unreadable_steps_are_left_out(run, tmp_path, capsys):
    run.sample_path(2).write_bytes(b"no PNG")
    view = wb.film(run)
    assert [frame.step for frame in view._frames(list(view.film.steps))] == [0, 1, 3, 4]
    assert f"left out: {run.sample_path(2)} cannot be read" in capsys.readouterr().err
    for step in (0, 1, 3, 4):
        run.sample_path(step).unlink()
    with pytest.raises(WorkbenchError, match="cannot be read"):
        view.save(tmp_path / "film.gif")
    assert list(tmp_path.glob("*film*")) == []


@pytest.mark.slow
def test_an_interrupted_command_leaves_nothing(run, tmp_path):
    out = tmp_path / "films" / "film.mp4"
    command = [sys.executable, "-m", "workbench", "film", run.name, "--out", str(out), "--seconds", "3600"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list(out.parent.glob(".film.mp4.tmp-*")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130 and "Traceback" not in process.stderr.read()
    assert list(out.parent.iterdir()) == []
