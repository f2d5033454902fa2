"""Files that need no trust: nothing in them runs, and whatever is wrong with them ends in one line."""

import io
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save

from workbench.files import UnreadableError
from workbench.foreign.weights import read_weights


def refusal(path):
    with pytest.raises(UnreadableError) as caught:
        read_weights(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400 + len(str(path))
    return caught.value.reason


def test_tensors_notes_and_digest(file):
    scores = dict(best_fid=np.float64(3.5), best_step=np.int64(7), step=9, name="x", aa_p=0.5, lecam_emas=dict(decay=0.9), epoch=None)
    for protocol in (dict(), dict(_use_new_zipfile_serialization=False)):
        weights = read_weights(
            file(dict(state_dict={"module.a": torch.ones(2)}, optimizer=dict(state={0: torch.ones(3)})) | scores, "a.pth", **protocol)
        )
        assert (
            list(weights.tensors) == ["a"] and weights.notes["step"] == 9 and weights.notes["best_fid"] == 3.5 and len(weights.sha256) == 64
        )


def test_code_in_a_file_does_not_run(file, tmp_path):
    trap = tmp_path / "ran"

    class Trap:
        def __reduce__(self):
            return open, (str(trap), "w")

    for path in (file(dict(a=torch.ones(2), b=Trap()), "a.pth"), file(torch.nn.Linear(2, 2), "net.pth")):
        assert "would run code; give a state dict" in refusal(path)
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Trap(), protocol=2))
    refusal(tmp_path / "plain.pth")
    assert not trap.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_truncated_and_damaged_files(file, tmp_path, legacy):
    whole = file({f"layer{k}.weight": torch.randn(40) for k in range(20)}, "G.pth", _use_new_zipfile_serialization=not legacy).read_bytes()
    for count in (1, 10, 100, len(whole) // 2, len(whole) - 8):
        (tmp_path / "half.pth").write_bytes(whole[:count])
        refusal(tmp_path / "half.pth")
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(whole), 40):  # read as something, or refused in one line
        (tmp_path / "bad.pth").write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            read_weights(tmp_path / "bad.pth")
        except UnreadableError as error:
            assert "\n" not in str(error)


def test_files_that_would_fill_the_memory(file, tmp_path):
    assert "no plain tensor in this file" in refusal(file({"a": torch.ones(1).expand(10**6, 10**6)}, "view.pth"))
    shared = torch.ones(10**5)
    assert "larger than the file" in refusal(file({f"{k}.a": shared for k in range(100)}, "shared.pth"))
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        archive.writestr("a/data/0", bytes(10**7))
    assert "unpacks to more than its size" in refusal(tmp_path / "bomb.pth")
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    assert "no safetensors" in refusal(tmp_path / "a.safetensors")


def test_other_files(file, tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.ones(2))
    assert "arrays of NumPy, not a file of PyTorch" in refusal(path)
    with zipfile.ZipFile(tmp_path / "y.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "a zip file, not a file of PyTorch" in refusal(tmp_path / "y.pth")
    for name in ("model.ckpt-1.index", "model.ckpt-1.data-00000-of-00001", "checkpoint"):
        (tmp_path / name).write_bytes(b"abc")
        assert "of TensorFlow" in refusal(tmp_path / name)
    for content, reason in ((b"", "empty"), (b"hello", "neither a file of PyTorch nor safetensors")):
        (tmp_path / "z.pth").write_bytes(content)
        assert reason in refusal(tmp_path / "z.pth")
    assert refusal(tmp_path / "none.pth") == "missing" and "director" in refusal(tmp_path)


def test_contents_that_are_no_networks(file, tmp_path):
    assert "a list, expected a dict of tensors" in refusal(file([torch.ones(2)], "a.pth"))
    assert "no named tensors in it, but itr, epoch" in refusal(file(dict(itr=3, epoch=4), "state_dict.pth"))
    assert "no named tensors" in refusal(file(dict(state_dict=3), "a.pth")) and "nothing" in refusal(file({}, "b.pth"))
    assert "a.b holds NaN or infinity" in refusal(file({"a.b": torch.tensor([1, float("nan")])}, "c.pth"))
    assert "no plain tensor" in refusal(file({"a": torch.ones(2, 2).to_sparse()}, "d.pth"))
    assert "no plain tensor" in refusal(file({"a": torch.ones(2, dtype=torch.complex64)}, "e.pth"))
    (tmp_path / "f.safetensors").write_bytes(save({"a": torch.ones(2).to(torch.float8_e4m3fn)}))
    assert "no plain tensor" in refusal(tmp_path / "f.safetensors")


def test_a_pickle_that_nests_without_end(tmp_path):
    stream = io.BytesIO(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")
    (tmp_path / "deep.pth").write_bytes(stream.getvalue())
    refusal(tmp_path / "deep.pth")
