"""What a training writes down of its attention."""

import pytest
import torch
from safetensors.torch import save_file

from workbench import Discriminator, Generator, WorkbenchError, attention
from workbench.attention.snapshots import Snapshot, load_snapshot, save_snapshot


def snapshot(config):
    z, y = torch.randn(3, config.z_dim), torch.tensor([0, 1, 2]) if config.num_classes else None
    generator, discriminator = Generator(config).eval(), Discriminator(config).eval()
    with torch.no_grad(), attention.capture_projections(generator) as g, attention.capture_projections(discriminator) as d:
        x = generator(z, y)
        discriminator(x, y)
    layers = {f"{letter}/{path}": layer for letter, found in (("G", g), ("D", d)) for path, layer in found.items()}
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


def test_a_file_of_an_earlier_version_is_refused(tmp_path):
    save_file({"z": torch.zeros(1), "G.attention.16.query": torch.zeros(1, 4, 2)}, tmp_path / "1.safetensors")
    with pytest.raises(WorkbenchError, match="holds no images: it is of an earlier version"):
        load_snapshot(tmp_path / "1.safetensors")
