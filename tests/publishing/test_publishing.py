"""Published runs: a folder that opens elsewhere as the same run, its card, and its upload to a fake hub."""

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from workbench import Run, WorkbenchError, publish, sampling, train
from workbench.cli import main
from workbench.paths import DEMO, outputs_dir
from workbench.publishing import folder as publishing
from workbench.publishing.folder import portable
from workbench.publishing.hub import upload
from workbench.tensors import load_tensors, save_tensors, seal


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def cats(tmp_path):
    """A run on a folder of images, with paths of this machine wherever a run may have them."""
    run = outputs_dir() / "cats"
    shutil.copytree(DEMO, run)
    edit(run / "config.json", data=str(tmp_path / "my images" / "cats"), resume=str(tmp_path / "old@5"), note=f"from {tmp_path}/notes.txt")
    machine = dict(host="laptop-of-mine", gpus=["H200", "H200"], processor="fast", system="Linux")
    command = [sys.executable, "-m", "workbench", "train", "-p", "data", str(tmp_path / "my images" / "cats")]
    edit(run / "provenance.json", command=command, machine=machine, git=dict(commit="abc", dirty=True), parent=dict(run="old", step=5))
    record = json.loads((run / "evaluations.jsonl").read_text().splitlines()[-1])
    record["reference"]["data"] = str(tmp_path / "my images" / "cats")
    record["scores"]["fd_new"] = float("nan")
    with open(run / "evaluations.jsonl", "a") as file:
        file.write(json.dumps(record) + "\n")
    return Run("cats")


def files(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_it_opens_in_a_clean_process_with_the_same_images(tmp_path):
    folder = publish("demo", tmp_path / "shared")
    card = (folder / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WORKBENCH")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    code += "\nprint(run.status()['state'], len(run.history()), run.class_names[2], run.discriminator().num_classes)\nimport numpy\nnumpy.save('x', images)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == f"finished {len(Run('demo').history())} ring 6\n", done.stderr
    generator = Run("demo").generator()
    expected = sampling.images(generator, sampling.latents(8, generator.z_dim, seed=1), sampling.labels(8, 6))
    assert np.array_equal(np.load(tmp_path / "x.npy"), expected)
    step = "checkpoints/4000/"
    assert files(folder) == {
        "README.md", "config.json", "provenance.json", "status.json", "evaluations.jsonl", "history.jsonl", "live.html", "samples/4000.png",
        f"{step}ema.safetensors", f"{step}discriminator.safetensors", f"{step}SHA256SUMS",
    }  # fmt: skip
    with Image.open(folder / "samples" / "4000.png") as grid:
        assert grid.size == (10 * 34 + 2, 6 * 34 + 2)


def test_the_card_has_what_the_hub_reads_and_the_scores_with_their_protocols(tmp_path):
    card = (publish("demo@4000", tmp_path / "shared", license="cc-by-4.0") / "README.md").read_text()
    _, front, text = card.split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["license"] == "cc-by-4.0" and front["library_name"] == "sagan-workbench" and "sagan" in front["tags"]
    record = [record for record in Run("demo").evaluations() if record["step"] == 4000][-1]
    assert record["protocol"] in text and all(f"| {name} |" in text for name in record["scores"])
    assert "| fd_twins@3d2861b8 | 3.4951 | lower |" in text and "self-attention (official) in G at 16,32, in D at 16." in text
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (tmp_path / "shared" / target).is_file()


def test_nothing_tells_of_this_machine(cats, tmp_path):
    folder = publish(cats, tmp_path / "shared")
    private = str(tmp_path), f"{Path.home()}/", "laptop-of-mine", sys.executable
    for name in files(folder):
        if not name.endswith((".png", ".safetensors")):
            text = re.sub('"base64": "[^"]*"', "", (folder / name).read_text())
            assert not [word for word in private if word in text], name
    run = Run(folder)
    assert run.provenance["command"] == [Path(sys.executable).name, "-m", "workbench", "train", "-p", "data", "cats"]
    assert Path(run.config.data).name == "cats" and run.config.resume is None and run.config.note == "from notes.txt"
    card = (folder / "README.md").read_text()
    assert "trained on cats" in card and "| 2 x H200 |" in card and "| old at step 5 |" in card and "| abc with changes |" in card
    assert "| fd_new | nan |" in card and "5,000 of cats at 32x32" in card


@pytest.mark.parametrize(("text", "expected"), [
    ("/home/me/a b/cats", "cats"), ("-p data=/home/me/cats,x", "-p data=cats,x"), ("~/runs/old@5", "old@5"), ("1/2 of and/or", "1/2 of and/or"),
    ("https://example.org/a/b", "https://example.org/a/b"), ("see (/a/b.txt)", "see (b.txt)"), ("module:attribute", "module:attribute"),
])  # fmt: skip
def test_paths_become_names(text, expected):
    assert portable([{"x": text}, 5, None]) == [{"x": expected}, 5, None]


def test_a_data_folder_called_as_a_built_in_set_stays_a_folder(cats, tmp_path):
    edit(cats.path / "config.json", data=str(tmp_path / "twins"))
    assert Run(publish(cats, tmp_path / "shared")).config.data.endswith("/twins")


@pytest.mark.slow
@pytest.mark.parametrize("changes", [dict(ema_decay=0.0, num_classes=0), dict(attention_block="residual")])
def test_other_runs(tiny, tmp_path, changes):
    run = train(tiny(run="other", steps=2, checkpoint_every=1, **changes))
    folder = publish("other@1", tmp_path / "shared")
    weights = "raw" if changes.get("ema_decay") == 0 else "ema"
    opened, original = (r.generator(weights=weights, step=1) for r in (Run(folder), run))
    assert all(torch.equal(a, b) for a, b in zip(opened.state_dict().values(), original.state_dict().values(), strict=True))
    assert Run(folder).checkpoint_steps() == [1] and Run(folder).status()["state"] == "stopped" and (folder / "live.html").exists()
    card = (folder / "README.md").read_text()
    assert "None were computed at step 1." in card and ("unconditional" in card.partition("# other")[2]) == (
        changes.get("num_classes") == 0
    )


def test_what_is_there_is_not_overwritten_and_nothing_half_is_left(tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file", "full/mine.txt"):
        with pytest.raises(WorkbenchError, match="exists and is not empty; give a new one"):
            publish("demo", tmp_path / name)
    with pytest.raises(WorkbenchError, match="license='my own' is no identifier"):
        publish("demo", tmp_path / "new", license="my own")

    def interrupted(*_, **__):
        assert any(".new.part-" in path.name for path in tmp_path.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr(publishing, "export_page", interrupted)
    with pytest.raises(KeyboardInterrupt):
        publish("demo", tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} <= {"full", "file", "outputs", "data"}
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(publishing, "export_page", lambda *_, **__: (_ for _ in ()).throw(WorkbenchError("too large")))
    assert "live.html" not in (publish("demo", tmp_path / "empty") / "README.md").read_text()


def test_damaged_weights_are_not_published(cats, tmp_path):
    file = cats.checkpoint_path() / "ema.safetensors"
    tensors = load_tensors(file)
    tensors["norm.gain"][0, 0] = float("inf")
    save_tensors(file, tensors)
    with pytest.raises(WorkbenchError, match="SHA-256"):
        publish(cats, tmp_path / "shared")
    seal(file.parent)
    with pytest.raises(WorkbenchError, match=r"step 4000: norm\.gain of G is not finite; publish another checkpoint"):
        publish(cats, tmp_path / "shared")
    assert not (tmp_path / "shared").exists() and publish("cats@1500", tmp_path / "shared")


# ------------------------------------------------------------------------------------------------------------ the hub


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as an upload meets; every file is uploaded as part of the commit."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        address = f"http://{self.headers['Host']}"
        self.server.calls.append((self.path, self.headers.get("Authorization"), body))
        answers = {
            "/api/repos/create": dict(url=f"{address}/someone/demo", id="someone/demo", name="someone/demo"),
            "/api/validate-yaml": dict(warnings=[], errors=[]),
            "/api/models/someone/demo/commit/main": dict(commitUrl=f"{address}/someone/demo/commit/1", commitOid="1", success=True),
        }
        if self.path.endswith("/preupload/main"):
            modes = [dict(path=file["path"], uploadMode="regular", shouldIgnore=False) for file in json.loads(body)["files"]]
            answers[self.path] = dict(files=modes)
        self.answer(answers.get(self.path))

    def do_GET(self):
        self.answer(dict(id="someone/demo", sha="0", siblings=[], private=False, modelId="someone/demo"))

    def answer(self, value):
        content = json.dumps(value or dict(error="no such page")).encode()
        self.send_response(200 if value else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = HTTPServer(("127.0.0.1", 0), Hub)
    server.calls = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def at_port(monkeypatch, tmp_path):
    """Make a port of this machine the Hub, as HF_ENDPOINT does before the library is imported."""
    constants = pytest.importorskip("huggingface_hub.constants")
    for name, value in dict(HF_TOKEN="hf_secret", HF_HOME=str(tmp_path / "hf"), no_proxy="127.0.0.1").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    return lambda port: monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")


def test_every_file_is_uploaded(hub, at_port, tmp_path, capsys):
    at_port(hub.server_port)
    folder = tmp_path / "shared"
    assert main(["publish", "demo", str(folder), "--hub", "someone/demo"]) == 0
    assert capsys.readouterr().out == f"written: {folder}\nuploaded: someone/demo\n"
    paths = [path for path, *_ in hub.calls]
    assert paths[0] == "/api/repos/create" and paths[-1] == "/api/models/someone/demo/commit/main"
    assert {token for _, token, _ in hub.calls} == {"Bearer hf_secret"}
    lines = [json.loads(line) for line in hub.calls[-1][2].splitlines()]
    sent = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"}
    assert sent == {name: (folder / name).read_bytes() for name in files(folder)}
    assert "snapshot_download('someone/demo')" in sent["README.md"].decode()


def test_a_hub_that_does_not_answer_is_one_line(at_port, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        at_port(free.getsockname()[1])
    with pytest.raises(WorkbenchError) as refused:
        upload(tmp_path, "someone/demo")
    message = str(refused.value)
    assert message.startswith("hub='someone/demo': ") and "refused" in message and "\n" not in message
    assert message.endswith(f"the folder is complete, try again with: hf upload someone/demo {tmp_path}")


def test_a_name_that_cannot_be_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    for name in ("demo", "a/b/c", "some one/demo", "/demo"):
        with pytest.raises(WorkbenchError, match="is no repository; give user/name"):
            publish("demo", tmp_path / "shared", name)
    monkeypatch.setattr("workbench.publishing.hub.find_spec", lambda _: None)
    with pytest.raises(WorkbenchError, match=r"needs huggingface_hub: pip install 'sagan-workbench\[hub\]'"):
        publish("demo", tmp_path / "shared", "someone/demo")
    assert not (tmp_path / "shared").exists()
