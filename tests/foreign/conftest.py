import pytest
import torch


@pytest.fixture
def file(tmp_path):
    """Writes an object as PyTorch does: `file(tensors, "G.pth")`."""

    def write(content, name, **options):
        torch.save(content, tmp_path / name, **options)
        return tmp_path / name

    return write
