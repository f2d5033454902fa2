"""What a run records of its attention."""

import pytest
import torch
from safetensors.torch import save

from workbench import Discriminator, Generator, attention, files
from workbench.attention.snapshots import Snapshot, load_snapshot, save_snapshot
from workbench.files import StorageError, UnreadableError
from workbench.tensors import sealed_bytes


def snapshot(config):
    z, y = torch.randn(3, config.z_dim), torch.tensor([0, 1, 2]) if config.num_classes else None
    generator, discriminator = Generator(config).eval(), Discriminator(config).eval()
    with torch.no_grad(), attention.capture_projections(generator) as g, attention.capture_projections(discriminator) as d:
        x = generator(z, y)
        discriminator(x, y)
    layers = {f"{letter}/{path}": layer for letter, captured in (("G", g), ("D", d)) for path, layer in captured.items()}
    return Snapshot(((x + 1) * 127.5).round().byte(), z, y, layers)


@pytest.mark.parametrize("changes", [{}, dict(num_classes=0), dict(attention_g="8,32"), dict(attention_g="none", attention_d="none")])
def test_what_is_read_is_what_was_written(tmp_path, tiny, changes):
    written = snapshot(tiny(**changes))
    save_snapshot(tmp_path / "new" / "5.safetensors", written)
    read = load_snapshot(tmp_path / "new" / "5.safetensors")
    assert torch.equal(read.images, written.images) and torch.equal(read.z, written.z)
    assert read.labels == ([None] * 3 if changes.get("num_classes") == 0 else [0, 1, 2])
    assert read.layers.keys() == written.layers.keys()
    for name, layer in read.layers.items():
        torch.testing.assert_close(layer.maps(), written.layers[name].maps(), atol=2e-3, rtol=0)  # half precision
        torch.testing.assert_close(layer.strength, written.layers[name].strength, atol=1e-4, rtol=2e-3)
        assert layer.gamma == written.layers[name].gamma and layer.query.dtype == torch.float32
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["5.safetensors"]


def test_queries_and_keys_are_small_where_maps_are_large(tmp_path, tiny):
    """64x64 queries and 32x32 keys of 16 channels: 160 KB against 8 MB in half precision."""
    layer = attention.Projections(torch.randn(1, 4096, 16), torch.randn(1, 1024, 16), torch.rand(1, 1024), torch.rand(1, 4096), 0.5)
    save_snapshot(tmp_path / "1.safetensors", Snapshot(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, 4), None, {"G/a": layer}))
    assert (tmp_path / "1.safetensors").stat().st_size < 176_000 < layer.maps().half().nbytes / 40


GOOD = {
    "images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "z": torch.zeros(2, 4), "y": torch.tensor([0, 1]), "G/a.query": torch.zeros(2, 16, 3),
    "G/a.key": torch.zeros(2, 4, 3), "G/a.value_norm": torch.zeros(2, 4), "G/a.strength": torch.zeros(2, 16), "G/a.gamma": torch.tensor(0.5),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "says"), [
    (dict(z=None), "z is missing"), (dict(images=torch.zeros(2, 3, 8, 8)), "images of shape"), (dict(y=torch.tensor([0])), r"y of shape \(1,\)"),
    (dict(images=torch.zeros(2, 3, 8, 4, dtype=torch.uint8)), "images of shape"), (dict(images=torch.zeros(0, 3, 8, 8, dtype=torch.uint8)), "images"),
    (dict(y=torch.tensor([0, -1])), "y of shape"), (dict(y=torch.tensor([0.0, 1])), "y of shape"), (dict(z=torch.full((2, 4), torch.nan)), "z is not finite"),
    ({"G/a.query": None}, "G/a.query is missing"), ({"G/a.gamma": None}, "G/a.gamma is missing"), ({"G/a.gamma": torch.zeros(1)}, "G/a.gamma of shape"),
    ({"G/a.query": torch.zeros(2, 15, 3)}, "G/a.query of shape"), ({"G/a.key": torch.zeros(2, 9, 3)}, "G/a.key of shape"),
    ({"G/a.key": torch.zeros(2, 4, 2)}, "G/a.key of shape"), ({"G/a.key": torch.zeros(1, 4, 3)}, "G/a.key of shape"),
    ({"G/a.strength": torch.full((2, 16), torch.inf)}, "G/a.strength is not finite"), ({"G/a.value_norm": torch.zeros(2, 4, dtype=torch.int)}, "value_norm"),
    ({"odd": torch.zeros(1)}, "is missing"), ({"G/a.query": torch.zeros(2, 0, 3)}, "G/a.query of shape"),
])  # fmt: skip
def test_what_is_no_snapshot_is_reported_in_one_line(tmp_path, changes, says):
    path = tmp_path / "5.safetensors"
    path.write_bytes(sealed_bytes(GOOD, 5))
    assert load_snapshot(path).layers["G/a"].side == 4
    path.write_bytes(sealed_bytes({name: tensor for name, tensor in (GOOD | changes).items() if tensor is not None}, 5))
    with pytest.raises(UnreadableError, match=says) as caught:
        load_snapshot(path)
    assert str(caught.value).startswith(f"{path} cannot be read: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [
    lambda c: b"", lambda c: c[:-9], lambda c: bytes(len(c)), lambda c: c[: len(c) // 2], lambda c: b"\xff" * 99,
    lambda c: c[:-8] + bytes(7) + b"\1", lambda c: c[: len(c) // 2] + bytes(len(c) - len(c) // 2), lambda c: sealed_bytes(GOOD, 4), lambda c: save(GOOD),
])  # fmt: skip
def test_damaged_snapshots_are_reported_in_one_line(tmp_path, damage):
    path = tmp_path / "5.safetensors"
    path.write_bytes(damage(sealed_bytes({name: tensor + 1 for name, tensor in GOOD.items()}, 5)))
    with pytest.raises(UnreadableError, match=" cannot be read: "):
        load_snapshot(path)
    (tmp_path / "6.safetensors").mkdir()
    with pytest.raises(UnreadableError, match=r"Is a directory|not a regular file"):
        load_snapshot(tmp_path / "6.safetensors")


def test_a_snapshot_that_cannot_be_written_leaves_nothing(tmp_path, tiny, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        save_snapshot(tmp_path / "file" / "5.safetensors", snapshot(tiny()))
    synced = []
    monkeypatch.setattr(
        files.os, "fsync", lambda handle: synced.append(handle) or (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(StorageError, match="No space left on device"):
        save_snapshot(tmp_path / "5.safetensors", snapshot(tiny()))
    assert synced and [path.name for path in tmp_path.iterdir()] == ["file"]


def test_equal_snapshots_are_equal_files():
    assert len({sealed_bytes(GOOD, 5) for _ in range(8)}) == 1
