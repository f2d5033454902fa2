import errno
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from workbench import Config, ParameterError, Run, WorkbenchError, list_runs
from workbench.__main__ import main
from workbench.data.twins import Twins
from workbench.files import StorageError, UnreadableError, delete_folder
from workbench.paths import DEMO, outputs_dir
from workbench.runs import create_run, find_runs, lock_run, write_provenance
from workbench.runs.checkpoints import newest_good_checkpoint, read_checkpoint, save_checkpoint
from workbench.runs.liveness import signature
from workbench.tensors import load_into, seal


def test_an_unknown_run_names_the_nearest():
    create_run(Config.preset("twins32", run="morning"))
    with pytest.raises(WorkbenchError, match=r"no run 'mornin' in .*did you mean 'morning'"):
        Run("mornin")
    assert [run.name for run in list_runs()] == ["morning"]


def test_history_survives_a_torn_last_line_and_is_truncated():
    run = create_run(Config.preset("twins32"))
    for step in (10, 20, 30):
        run.append("history.jsonl", dict(step=step))
    with open(run.path / "history.jsonl", "a") as f:
        f.write('{"step": 4')
    assert [row["step"] for row in run.history()] == [10, 20, 30]
    run.begin_records(run, 20)
    run.append("history.jsonl", dict(step=21))
    assert [row["step"] for row in run.history()] == [10, 20, 21]


def test_checkpoints_are_complete_or_absent(tiny, monkeypatch):
    run = create_run(tiny())
    tensors = {"generator": {"w": torch.randn(3, 2).t()}}  # not contiguous
    save_checkpoint(run.path, 1, tensors, dict(step=1))
    assert sorted(p.name for p in run.checkpoint_path().iterdir()) == ["SHA256SUMS", "generator.safetensors", "state.json"]
    assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=run.checkpoint_path()).returncode == 0
    # Killed while writing or deleting: no incomplete checkpoint remains, and `clean` deletes the leftovers.
    monkeypatch.setattr(Path, "rename", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr("workbench.files.shutil.rmtree", lambda *a, **k: None)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(run.path, 2, tensors, dict(step=2))
    delete_folder(run.path / "checkpoints" / "1")
    monkeypatch.undo()
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(run.path.parent))
    assert run.checkpoint_steps() == [] and len(list((run.path / "checkpoints").iterdir())) == 2
    run.clean()
    assert list((run.path / "checkpoints").iterdir()) == []


def test_keep_checkpoints_deletes_older_ones(tiny):
    run = create_run(tiny())
    for step in range(1, 12):
        save_checkpoint(run.path, step, {"g": {"w": torch.zeros(1)}}, {}, keep=2)
    assert run.checkpoint_steps() == [10, 11]


@pytest.mark.slow
def test_networks_are_loaded_as_they_were_saved(tiny):
    from workbench import train

    run = train(tiny(attention_g="8,16"))
    generator = run.generator()
    assert not generator.training and not any(p.requires_grad for p in generator.parameters())
    raw = run.generator(weights="raw")
    assert not torch.equal(generator.linear.bias, raw.linear.bias)
    z, y = torch.randn(2, 8), torch.arange(2)
    assert generator(z, y).shape == (2, 3, 32, 32) and run.discriminator()(raw(z, y), y).shape == (2,)
    with pytest.raises(WorkbenchError, match="no checkpoint at step 7; there are: 4"):
        run.generator(step=7)
    without = train(tiny(ema_decay=0, run="without"))
    with pytest.raises(WorkbenchError, match="has no EMA"):
        without.generator()
    without.generator(weights="raw"), without.generator(weights="auto")
    # A checkpoint of another architecture is refused by name.
    shutil.copy(run.checkpoint_path() / "generator.safetensors", without.checkpoint_path() / "generator.safetensors")
    seal(without.checkpoint_path())
    with pytest.raises(WorkbenchError, match=r"does not fit the configuration: 'attention\.8"):
        without.generator(weights="raw")


def test_loading_keeps_the_memory_layout():
    target = {"w": torch.zeros(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)}
    saved = {"w": torch.randn(2, 3, 4, 4)}
    load_into(target, saved, "file")
    assert torch.equal(target["w"], saved["w"]) and target["w"].is_contiguous(memory_format=torch.channels_last)


def test_a_dead_process_is_noticed(tiny, other):
    run = create_run(tiny())
    assert run.status()["state"] == "created" and not run.active
    run.set_status(state="running", step=3, **signature(other.pid))
    assert run.active and run.status()["step"] == 3
    run.stop()
    assert run.status()["state"] == "stopping"
    other.kill()
    while psutil.Process(other.pid).status() != psutil.STATUS_ZOMBIE:  # dead, but its parent has not waited for it yet
        pass
    assert run.status()["state"] == "lost" and not run.active
    assert "died without reporting; nothing was saved yet; start again with: " in run.status()["message"]


def test_a_reused_process_number_is_not_the_training(tiny):
    run = create_run(tiny())
    run.set_status(state="running", born="1")
    assert run.status()["state"] == "lost"


@pytest.mark.parametrize("step", [3, -3, 3600, -86400])
def test_setting_the_clock_makes_no_training_lost(tiny, other, monkeypatch, step):
    run = create_run(tiny())
    run.set_status(state="running", **signature(other.pid))
    for name in ("time", "time_ns"):
        real = getattr(time, name)
        monkeypatch.setattr(time, name, lambda real=real, unit=1e9 if name == "time_ns" else 1: real() + type(real())(step * unit))
    boot_time = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: boot_time + step, raising=False)
    assert run.active and Run(run.name).active


def test_another_machine_is_known_by_its_heartbeat(tiny, monkeypatch):
    run = create_run(tiny())
    run.set_status(state="running", **signature() | dict(machine="another", host="elsewhere", pid=1))
    (run.path / ".lock").touch()
    for name, age in (("status.json", 7200), (".lock", 20)):
        os.utime(run.path / name, (time.time() - age,) * 2)
    assert run.active  # as in an evaluation that takes two hours
    os.utime(run.path / ".lock", (time.time() - 1200,) * 2)
    assert run.status()["state"] == "lost"


# ------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("signed", [dict(pid=float("inf")), dict(pid="7"), dict(pid=2**70), dict(born=7), dict(pid=None), dict(machine=[])])
def test_a_status_with_an_invalid_signature_raises_no_error(tiny, signed):
    run = create_run(tiny(run="r"))
    run.set_status(state="running", **signed)
    assert run.status()["state"] in ("lost", "unreadable")


DAMAGE = dict(
    empty=b"", cut=b'{"preset": "twins32", "wid', zeros=b"\0" * 200, binary=b"\xff\xfe\x00", list=b"[1, 2]", number=b"1" * 5000,
    deep=b"[" * 100_000, other=b'{"preset": "twins32", "from": "another version"}',
)  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", ["config.json", "status.json", "provenance.json"])
def test_a_damaged_file_is_reported_and_breaks_no_list(tiny, file, damage, monkeypatch, capsys):
    good = create_run(tiny(run="good", tags="x"))
    good.set_status(state="finished")
    write_provenance(good, good.config, Twins(32), 0)
    bad = create_run(tiny(run="bad"))
    (bad.path / file).write_bytes(DAMAGE[damage])
    monkeypatch.setattr("workbench.messages._printed", set())
    monkeypatch.setattr(sys, "argv", ["workbench", "runs"])
    assert main() == 0
    out, err = capsys.readouterr()
    assert "finished" in out and "good" in out
    harmless = (file, damage) in {("status.json", "other"), ("provenance.json", "other")}
    if file != "provenance.json" and not harmless:
        assert f"{bad.path / file} cannot be read: " in out + err
    assert [run.name for run in find_runs("good")] == ["good"] and [run.name for run in find_runs("x")] == ["good"]
    warning = f"{bad.path / file} cannot be read: "
    assert harmless or warning in err + out + capsys.readouterr().err
    assert "Traceback" not in out + err
    if file == "config.json":
        with pytest.raises(UnreadableError, match=" cannot be read: "):
            bad.config  # noqa: B018


@pytest.mark.parametrize(
    "line", [b"\0" * 40, b"\xff\xfe", b"{", b"7", b'{"step": "x"}', b"{}", b'{"step": -1}', b'{"step": 5, "loss_d": "high"}']
)
def test_damaged_lines_are_left_out_and_reported_once(tiny, line, monkeypatch, capsys):
    run = create_run(tiny(run="r"))
    run.append("history.jsonl", dict(step=1, loss_d=0.5))
    with open(run.path / "history.jsonl", "ab") as file:
        file.write(line)  # torn: no line end
    run.append("history.jsonl", dict(step=2, loss_d=0.25))
    monkeypatch.setattr("workbench.messages._printed", set())
    for _ in range(2):
        assert [row["step"] for row in run.history()] == [1, 2]
    assert capsys.readouterr().err == f"{run.path / 'history.jsonl'} cannot be read: line 2; left out, the rest is used\n"


def test_resuming_drops_only_records_of_later_steps(tiny, monkeypatch):
    run = create_run(tiny(run="r"))
    for step in (1, 2, 3):
        run.append("history.jsonl", dict(step=step))
        run.append("evaluations.jsonl", dict(step=step, scores={}, protocol="by hand"))
        run.append("evaluations.jsonl", dict(step=step, scores={}, protocol="p", during_training=True))
    with open(run.path / "history.jsonl", "ab") as file:
        file.write(b'\0\0 a bad line\n{"step": 4, "loss_d": null}\n{"step": 2, "loss_d": null}\n{"step": 1')
    run.begin_records(run, 2)
    assert (run.path / "history.jsonl").read_bytes() == b'{"step": 1}\n{"step": 2}\n\0\0 a bad line\n{"step": 2, "loss_d": null}\n'
    evaluations = [(row["step"], row["protocol"]) for row in run.evaluations()]
    assert evaluations == [(1, "by hand"), (1, "p"), (2, "by hand"), (2, "p"), (3, "by hand")]
    # An unreadable file is not treated as empty.
    before = (run.path / "history.jsonl").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("workbench.json_lines.read_bytes", lambda path: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
        with pytest.raises(UnreadableError, match=r"history.jsonl cannot be read: Input/output error"):
            run.begin_records(run, 1)
    assert (run.path / "history.jsonl").read_bytes() == before
    run.begin_records(None, 0)
    assert run.history() == run.evaluations() == []


def test_a_record_is_written_whole_or_not_at_all(tiny, monkeypatch):
    run = create_run(tiny(run="r"))
    run.append("history.jsonl", dict(step=1))
    before, write = (run.path / "history.jsonl").read_bytes(), os.write

    def full(handle, content):
        if len(content) < 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, content[:8])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageError, match=r"history.jsonl cannot be written: No space left on device; the disk of .* MB left: make room"):
        run.append("history.jsonl", dict(step=2))
    assert (run.path / "history.jsonl").read_bytes() == before


def flip(path, bit=0):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1 << bit
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.slow
@pytest.mark.parametrize("file", ["ema.safetensors", "generator.safetensors", "window.safetensors", "state.json", "SHA256SUMS"])
@pytest.mark.parametrize(
    "damage", [flip, cut, os.remove, lambda path: path.write_bytes(b""), "other"], ids=["flip", "cut", "missing", "empty", "other"]
)
def test_damaged_checkpoints_are_refused(trained_once, file, damage):
    run = trained_once(steps=4, checkpoint_every=2, log_every=3)
    path = run.checkpoint_path(4) / file
    shutil.copy(run.checkpoint_path(2) / file, path) if damage == "other" else damage(path)
    with pytest.raises(WorkbenchError) as error:
        read_checkpoint(run.checkpoint_path())
    text = str(error.value)
    assert (
        " cannot be read: " in text and str(path.parent) in text and "newest good checkpoint is that of step 2" in text and "\n" not in text
    )
    if file == "ema.safetensors":
        with pytest.raises(WorkbenchError, match=r"ema\.safetensors"):
            run.generator()
        run.generator(weights="raw"), run.generator(step=2)
    flip(run.checkpoint_path(2) / "optimizer_d.safetensors")
    assert newest_good_checkpoint(run.path, exclude=4) is None


@pytest.mark.slow
def test_a_checkpoint_under_the_wrong_step_is_refused(trained_once):
    run = trained_once(steps=4, checkpoint_every=2)
    shutil.copytree(run.checkpoint_path(2), run.path / "checkpoints" / "3")
    with pytest.raises(WorkbenchError, match="it is of step 2"):
        read_checkpoint(run.checkpoint_path(3))


def test_the_demo_is_never_written_to(tiny):
    demo, before = Run("demo"), {path: path.stat().st_mtime_ns for path in DEMO.rglob("*")}
    demo.append("evaluations.jsonl", dict(step=4000, scores={"x": 1.0}, protocol="p"))
    assert Run("demo").evaluations()[-1]["scores"] == {"x": 1.0} and (outputs_dir() / "demo" / "evaluations.jsonl").exists()
    assert demo.path == DEMO == Run("demo").path and demo.reference == "demo"
    demo.stop()
    with pytest.raises(WorkbenchError, match="ships with the package"), lock_run(demo):
        pass
    with pytest.raises(
        WorkbenchError, match=r"keeps no raw weights of G \(weights='raw'\); it has: EMA of G \(weights='ema'\), weights of D$"
    ):
        demo.generator(weights="raw")
    assert {path: path.stat().st_mtime_ns for path in DEMO.rglob("*")} == before


def test_a_bare_name_is_not_looked_up_in_the_working_directory(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.move(create_run(tiny(run="same", seed=5)).path, tmp_path / "same")
    with pytest.raises(WorkbenchError, match="there is no run 'same'"):
        Run("same")
    assert Run("./same").config.seed == 5 and Run(Path("same")).reference == str(tmp_path / "same")
    create_run(tiny(run="same", seed=6))
    assert Run("same").config.seed == 6


def test_update_config_refuses_what_defines_a_run(tiny):
    run = create_run(tiny(run="a", num_classes=None, mixed_precision="auto"))
    config = run.update_config(run.config.replace(resume="a", steps=9, mixed_precision="bf16", num_classes=6))
    assert config == run.config and (config.resume, config.steps, config.mixed_precision) == (None, 9, "bf16")
    for changes in (dict(lr_d=0.5), dict(mixed_precision="no"), dict(note="other"), dict(tags="b"), dict(run="b")):
        with pytest.raises(ParameterError, match=f"{next(iter(changes))}=.* differs from .* of run 'a', which is resumed"):
            run.update_config(config.replace(**changes))
    assert run.config == config


def test_the_status_of_a_dead_training_quotes_its_last_error(tiny):
    run = create_run(tiny(run="a"))
    run.set_status(state="running", born="1")
    for log, message in (
        ("packing\nParameterError: lr_d=x\nTraceback\nsubprocess.CalledProcessError: Command\n=====\n", "(ParameterError: lr_d=x)"),
        ("Traceback\n  File\nModuleNotFoundError: No module\n===\n", "(ModuleNotFoundError: No module)"),
        ("step 3\n\n====\n", "(step 3)"),
        ("", "died without reporting;"),
    ):
        (run.path / "train.log").write_bytes(b"\xff" * 100_000 + b"\n" + log.encode())
        assert message in run.status()["message"] or not log


def test_commands_in_messages_are_quoted_for_the_shell(tiny):
    run = create_run(tiny(run="my run"))
    before, said = run.resume_hint().split(": ")
    assert before == "nothing was saved yet; start again with" and said.endswith("workbench train -p resume 'my run'")
    assert shlex.split(said)[-4:] == ["train", "-p", "resume", "my run"]


def test_show_deletes_nothing(tmp_path, monkeypatch, capsys):
    (outputs_dir() / "notes").mkdir(parents=True)
    (outputs_dir() / "notes" / "mine.ipynb").write_text("{}")
    for place in ("notes", "../outputs/notes", str(outputs_dir() / "notes"), ".", "", "\0", "x" * 5000):
        monkeypatch.setattr(sys, "argv", ["workbench", "show", place])
        assert main() == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert (outputs_dir() / "notes" / "mine.ipynb").exists()


@pytest.mark.slow
def test_command_line_of_runs(tiny, monkeypatch, capsys):
    create_run(tiny(run="here")).set_status(state="finished", message="finished after 4 steps")

    def call(*words):  # what `python -m workbench` calls, in this process: its exit status, and what it prints
        monkeypatch.setattr(sys, "argv", ["workbench", *words])
        return main(), *capsys.readouterr()

    assert "here" in call("runs")[1]
    assert "finished after 4 steps" in call("show", "here")[1]
    assert "lr_d" in call("parameters")[1]
    assert call("show", "her")[2].startswith("WorkbenchError: there is no run 'her'")
    words = [sys.executable, "-m", "workbench", "train", "-p", "lrd", "1"]
    refused = subprocess.run(words, capture_output=True, text=True, env=os.environ)
    assert refused.returncode == 2 and refused.stderr.splitlines()[-1].startswith("ParameterError: unknown parameter 'lrd'")
