import os
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import psutil
import pytest
import torch

from workbench import Config, ParameterError, Run, WorkbenchError, list_runs
from workbench.__main__ import main
from workbench.runs import create_run, fork_point, git_state, load_into, reserve, write_provenance
from workbench.twins import Twins


def test_runs_are_named_from_what_differs_and_never_collide(tiny):
    config = Config.preset("twins32", lr_d=4e-4)
    assert [create_run(config).name for _ in range(3)] == ["twins32-lr_d=0.0004", "twins32-lr_d=0.0004-2", "twins32-lr_d=0.0004-3"]
    run = create_run(Config.preset("twins32", run="mine"))
    assert run.config.run == run.name == "mine"
    with pytest.raises(ParameterError, match="run='mine' exists already; go on with it by resume='mine'"):
        create_run(Config.preset("twins32", run="mine"))


def _create(_):
    return create_run(Config.preset("twins32", seed=1)).name


def test_runs_started_at_once_get_folders_of_their_own():
    with ProcessPoolExecutor(4) as pool:
        names = list(pool.map(_create, range(40)))
    assert len(set(names)) == 40
    assert all(Run(name).config.run == name for name in names)


def test_a_reserved_name_is_kept_for_the_run_of_that_name():
    config = Config.preset("twins32")
    name = reserve(config)
    assert name == "twins32" and reserve(config) == "twins32-2"
    assert create_run(config).name == "twins32-3"
    assert create_run(config.replace(run=name)).name == "twins32"


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
    run.truncate(20)
    run.append("history.jsonl", dict(step=21))
    assert [row["step"] for row in run.history()] == [10, 20, 21]


def test_checkpoints_are_complete_or_absent(tiny, monkeypatch):
    run = create_run(tiny())
    tensors = {"generator": {"w": torch.randn(3, 2).t()}}  # not contiguous
    run.save_checkpoint(1, tensors, dict(step=1))
    assert sorted(p.name for p in run.checkpoint_path().iterdir()) == ["generator.safetensors", "state.json"]
    # Killed while writing: nothing that looks like a checkpoint remains, and the leavings are cleaned up.
    monkeypatch.setattr("workbench.runs.os.replace", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run.save_checkpoint(2, tensors, dict(step=2))
    monkeypatch.undo()
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(run.path.parent))
    assert run.checkpoint_steps() == [1]
    run.clean()
    assert [p.name for p in (run.path / "checkpoints").iterdir()] == ["1"]


def test_only_the_newest_checkpoints_are_kept_when_asked(tiny):
    run = create_run(tiny())
    for step in range(1, 12):
        run.save_checkpoint(step, {"g": {"w": torch.zeros(1)}}, {}, keep=2)
    assert run.checkpoint_steps() == [10, 11]


def test_models_come_back_as_they_were_saved(tiny):
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
    with pytest.raises(WorkbenchError, match="keeps no averaged weights"):
        without.generator()
    without.generator(weights="raw"), without.generator(weights="auto")
    # A checkpoint of another architecture is refused by name.
    shutil.copy(run.checkpoint_path() / "generator.safetensors", without.checkpoint_path() / "generator.safetensors")
    with pytest.raises(WorkbenchError, match=r"does not fit the configuration: 'attention\.8"):
        without.generator(weights="raw")


def test_loading_keeps_the_memory_layout():
    target = {"w": torch.zeros(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)}
    saved = {"w": torch.randn(2, 3, 4, 4)}
    load_into(target, saved, "file")
    assert torch.equal(target["w"], saved["w"]) and target["w"].is_contiguous(memory_format=torch.channels_last)


def test_provenance_records_where_a_run_comes_from(tiny):
    config = tiny(note="a try", tags="a, b")
    run = create_run(config)
    data = Twins(32)
    write_provenance(run, config, data, 0)
    record = run.provenance
    assert record["data"] == dict(name="twins", fingerprint=data.fingerprint, classes=Twins.classes)
    assert record["note"] == "a try" and [tag.strip() for tag in record["tags"]] == ["a", "b"] and record["parent"] is None
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0] and record["python"] == sys.version.split()[0]
    assert record["command"][1:] == sys.orig_argv[1:]
    assert record["git"] == git_state()
    write_provenance(run, config, data, 4)
    assert [start["from_step"] for start in run.provenance["started"]] == [0, 4]
    with pytest.raises(WorkbenchError, match="it has changed"):
        write_provenance(run, config, Twins(32, seed=1), 4)


def test_git_state_sees_commit_and_changes(tmp_path, monkeypatch):
    for words in (["init", "-q"], ["-c", "user.name=a", "-c", "user.email=b", "commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    (tmp_path / "workbench").mkdir()
    monkeypatch.setattr("workbench.runs.__file__", str(tmp_path / "workbench" / "runs.py"))
    head = subprocess.run(["git", "-C", str(tmp_path), "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert git_state() == dict(commit=head, dirty=False)
    (tmp_path / "new.py").touch()
    assert git_state() == dict(commit=head, dirty=True)


def test_a_dead_process_is_noticed(tiny):
    run = create_run(tiny())
    assert run.status()["state"] == "created" and not run.active
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    run.set_status(state="running", step=3, pid=process.pid, born=psutil.Process(process.pid).create_time())
    assert run.active and run.status()["step"] == 3
    run.stop()
    assert run.status()["state"] == "stopping"
    process.kill()
    process.wait()
    assert run.status()["state"] == "lost" and not run.active
    assert "nothing was saved" in run.status()["message"]


def test_a_process_id_used_again_is_not_the_training(tiny):
    run = create_run(tiny())
    run.set_status(state="running", born=1.0)
    assert run.status()["state"] == "lost"


@pytest.mark.parametrize(
    ("resume", "says"), [("a@x", "'x' is not a step"), ("a@5", "no checkpoint at step 5"), ("b@5", "there is no run 'b'")]
)
def test_a_fork_point_that_is_not_there(tiny, resume, says):
    create_run(tiny(run="a")).save_checkpoint(4, {"g": {"w": torch.zeros(1)}}, {})
    with pytest.raises(WorkbenchError, match=says):
        fork_point(tiny(resume=resume))
    assert fork_point(tiny(resume="a@4"))[1] == 4
    assert fork_point(tiny(resume="a")) is None


@pytest.mark.slow
def test_command_line_tells_of_runs(tiny, monkeypatch, capsys):
    create_run(tiny(run="here")).set_status(state="finished", message="finished after 4 steps")

    def call(*words):  # what `python -m workbench` calls, in this process: its exit status, and what it prints
        monkeypatch.setattr(sys, "argv", ["workbench", *words])
        return main(), *capsys.readouterr()

    assert "here" in call("runs")[1]
    assert "finished after 4 steps" in call("show", "here")[1]
    assert "lr_d" in call("parameters")[1]
    assert call("reserve", "-p", "seed", "3")[1] == "twins32-seed=3\n"
    assert call("show", "twins32-seed=3")[0] == 0  # refused before it began: the name is free again
    assert call("reserve", "-p", "seed", "3")[1] == "twins32-seed=3\n"
    assert call("show", "her")[2].startswith("WorkbenchError: there is no run 'her'")
    words = [sys.executable, "-m", "workbench", "reserve", "-p", "lrd", "1"]
    refused = subprocess.run(words, capture_output=True, text=True, env=os.environ)
    assert refused.returncode == 2 and refused.stderr.splitlines()[-1].startswith("ParameterError: unknown parameter 'lrd'")
