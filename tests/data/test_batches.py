import threading
import time

import numpy as np
import pytest
import torch
from image_folders import S, config, in_memory

from workbench.data import batch_indices, loader


def test_every_epoch_is_a_permutation_of_its_own():
    epochs = [batch_indices(50, 3, 50 * epoch, 50) for epoch in range(4)]
    assert all(sorted(epoch.tolist()) == list(range(50)) and epoch.dtype == np.int64 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4 and all(epoch.tolist() != list(range(50)) for epoch in epochs)
    assert batch_indices(50, 4, 0, 50).tolist() != epochs[0].tolist()


@pytest.mark.parametrize("length, count", [(50, 8), (50, 50), (7, 16), (1, 3)])
def test_batches_are_pieces_of_one_stream(length, count):
    stream = []
    for epoch in range(30):
        stream += np.random.default_rng([5, epoch, 0xDA7A]).permutation(length).tolist()
    rng = np.random.default_rng(0)
    for position in [0, *rng.integers(0, len(stream) - count, 50)]:
        assert batch_indices(length, 5, int(position), count).tolist() == stream[position : position + count]


def test_what_is_served_can_be_changed_without_harm():
    first = batch_indices(50, 0, 0, 10)
    before = first.copy()
    first[:] = -1
    assert batch_indices(50, 0, 0, 10).tolist() == before.tolist()


def test_endless_data_is_served_in_order():
    assert batch_indices(None, 9, 1000, 4).tolist() == [1000, 1001, 1002, 1003]


class Indices:
    """Data whose images are their indices."""

    def __init__(self, length):
        self.length, self.served, self.fail_at = length, [], None

    def batch(self, indices):
        self.served.append(indices)
        if len(self.served) == self.fail_at:
            raise RuntimeError("the disk is gone")
        return torch.from_numpy(indices), torch.from_numpy(indices) % 3


def steps(data, count, *arguments, **changes):
    batches = loader(data, config("twins", **changes), *arguments)
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken


@pytest.mark.parametrize("length", [100, None])
def test_shares_make_up_the_global_batch(length):
    changes = dict(batch_size=24, d_steps=2, gradient_accumulation=3, batch_norm_group=8, seed=1)
    shares = [steps(Indices(length), 6, 0, rank, 4, **changes) for rank in range(4)]
    for step in range(6):
        for k in range(2):
            parts = [shares[rank][step][1][k][a] for a in range(3) for rank in range(4)]  # micro-batch by micro-batch
            assert all(x.shape == y.shape == (2,) for x, y in parts)
            whole = batch_indices(length, 1, (2 * step + k) * 24, 24)
            assert torch.cat([x for x, _ in parts]).tolist() == whole.tolist()
            assert torch.cat([y for _, y in parts]).tolist() == (whole % 3).tolist()
    assert [step for step, _ in shares[0]] == list(range(6))


def test_steps_follow_one_another_without_gaps():
    flat = torch.cat([x for _, step in steps(Indices(40), 10, batch_size=8, d_steps=2) for ((x, _),) in step])
    assert [sorted(epoch.tolist()) for epoch in flat.split(40)] == [list(range(40))] * 4


def test_starting_late_is_skipping():
    changes = dict(batch_size=8, d_steps=3, gradient_accumulation=2, batch_norm_group=4)
    whole, late = steps(Indices(30), 9, **changes), steps(Indices(30), 5, 4, **changes)
    assert [step for step, _ in late] == [4, 5, 6, 7, 8]
    assert str(whole[4:]) == str(late)


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_one_step_is_prepared_ahead():
    data = Indices(100)
    batches = loader(data, config("twins", batch_size=4))
    next(batches)
    wait_for(lambda: len(data.served) == 2)
    time.sleep(0.05)
    assert len(data.served) == 2  # and no more than one
    assert loader_threads()
    batches.close()
    assert not loader_threads()


def test_errors_in_the_thread_surface():
    data = Indices(100)
    data.fail_at = 3
    batches = loader(data, config("twins", batch_size=4))
    assert [next(batches)[0], next(batches)[0]] == [0, 1]
    with pytest.raises(RuntimeError, match="the disk is gone"):
        next(batches)
    assert not loader_threads()


def test_the_loader_serves_packed_images():
    data = in_memory([30, 34])
    ((_, (((x, y),),)),) = steps(data, 1, batch_size=16)
    indices = batch_indices(64, 0, 0, 16)
    assert x.shape == (16, 3, S, S) and x[:, 0, 0, 0].tolist() == indices.tolist() and y.tolist() == data.labels[indices].tolist()
