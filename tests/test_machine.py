import subprocess

from workbench.machine import git_state


def test_git_state_sees_commit_and_changes(tmp_path, monkeypatch):
    for words in (["init", "-q"], ["-c", "user.name=a", "-c", "user.email=b", "commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    (tmp_path / "workbench").mkdir()
    monkeypatch.setattr("workbench.machine.__file__", str(tmp_path / "workbench" / "machine.py"))
    head = subprocess.run(["git", "-C", str(tmp_path), "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert git_state() == dict(commit=head, dirty=False)
    (tmp_path / "new.py").touch()
    assert git_state() == dict(commit=head, dirty=True)
