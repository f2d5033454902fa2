import json
import multiprocessing
import os
import socket

import numpy as np
import pytest
import torch
from accelerate import PartialState
from torch import nn

from workbench.data.twins import Twins
from workbench.messages import WorkbenchError
from workbench.metrics import Moments, frechet_distance
from workbench.metrics import twins as small_classifier
from workbench.metrics.extractors import Extractor
from workbench.metrics.stream import CHUNK, features_in_order


class Mean(nn.Module):
    def forward(self, x):
        means = x.mean((2, 3))
        return means, means.sum(1, keepdim=True)


def images_of(start, count):
    index = torch.arange(start, start + count)
    return (index % 256).byte().view(-1, 1, 1, 1).expand(-1, 3, 4, 4), index % 7


@pytest.mark.parametrize("n", [1, CHUNK, CHUNK + 1, 3 * CHUNK - 1])
def test_results_come_in_the_order_of_the_index(n):
    done = []
    chunks = list(
        features_in_order(
            images_of, n, Extractor(Mean()), lambda x: x.float(), lambda x, y: {"twice": y.float() * 2}, batch_size=100, advance=done.append
        )
    )
    index = torch.arange(n)
    assert [chunk.start for chunk in chunks] == list(range(0, n, CHUNK)) and sum(done) == n
    features, logits, labels = (torch.cat([getattr(c, k) for c in chunks]) for k in ("features", "logits", "labels"))
    assert torch.equal(features, (index % 256).float()[:, None].expand(-1, 3)) and torch.equal(logits[:, 0], features.sum(1))
    assert torch.equal(labels, index % 7) and torch.equal(torch.cat([c.truths["twice"] for c in chunks]), labels.float() * 2)


def test_images_without_classes():
    (chunk,) = features_in_order(lambda start, count: (images_of(start, count)[0], None), 5, Extractor(Mean()), lambda x: x.float())
    assert torch.equal(chunk.labels, torch.zeros(5, dtype=torch.int64)) and chunk.truths == {}


class Halves(nn.Module):
    """The upper and the lower half of each image, as two crops."""

    def forward(self, x):
        return x.unflatten(2, (2, 2)).transpose(1, 2).flatten(0, 1).mean((2, 3))


@pytest.mark.parametrize("n", [1, CHUNK + 1])
def test_each_crop_is_a_row_with_the_label_and_the_truth_of_its_image(n):
    def different_halves(start, count):
        x, y = images_of(start, count)
        x = x.clone()
        x[:, :, 2:] = 255
        return x, y

    chunks = list(
        features_in_order(
            different_halves, n, Extractor(Halves(), crops=2), lambda x: x.float(), lambda x, y: {"twice": y.float() * 2}, batch_size=100
        )
    )
    assert [chunk.start for chunk in chunks] == list(range(0, 2 * n, 2 * CHUNK))
    features, labels, truths = (
        torch.cat(parts) for parts in zip(*((c.features, c.labels, c.truths["twice"]) for c in chunks), strict=True)
    )
    index = torch.arange(n)
    assert torch.equal(features[::2, 0], (index % 256).float()) and (features[1::2] == 255).all() and len(features) == 2 * n
    assert torch.equal(labels, (index % 7).repeat_interleave(2)) and torch.equal(truths, labels.float() * 2)
    with pytest.raises(WorkbenchError, match=r"gave features of shape \(2, 3\) for 1 images; expected \(1, d\)"):
        Extractor(Halves())(images_of(0, 1)[0])


def worker(rank, world, port, out):
    """Moments and scores of twins, computed by one of several processes; the main one writes them down."""
    torch.set_num_threads(1)
    if world > 1:
        os.environ |= dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    PartialState._reset_state()  # that of the process which this one is a copy of
    state = PartialState(cpu=True)
    assert state.num_processes == world
    extractor, count, moments = small_classifier(), dict(deficient=60, full=700), {}
    for name, n in count.items():
        for seed in (0, 1):
            moments[name, seed] = Moments()
            data = Twins(32, seed=seed)
            for chunk in features_in_order(
                lambda start, count, data=data: data.batch(np.arange(start, start + count)), n, extractor, lambda x: x.float()
            ):
                moments[name, seed].update(chunk.features)
    if not state.is_main_process:
        assert not any(m.n for m in moments.values())
        return
    scores = {}
    for name in count:
        a, b = moments[name, 0], moments[name, 1]
        scores[name] = frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
    full = moments["full", 0]
    out.write_text(json.dumps(dict(n=full.n, mean=full.mean.tolist(), covariance=full.covariance.tolist(), scores=scores)))


@pytest.mark.slow
def test_one_two_and_four_processes_agree(tmp_path):
    """Real processes: moments to 1e-12, full-rank Fréchet distances to 1e-10 and rank-deficient ones to 1e-6."""
    results, fork = [], multiprocessing.get_context("fork")  # seven processes that import torch would take half a minute
    for world in (1, 2, 4):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        out = tmp_path / f"{world}.json"
        processes = [fork.Process(target=worker, args=(rank, world, port, out), daemon=True) for rank in range(world)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(200)
        assert [process.exitcode for process in processes] == [0] * world
        results.append(json.loads(out.read_text()))
    one = results[0]
    assert one["n"] == 700
    for other in results[1:]:
        for key in ("mean", "covariance"):
            a, b = torch.tensor(one[key], dtype=torch.float64), torch.tensor(other[key], dtype=torch.float64)
            assert (a - b).norm() <= 1e-12 * a.norm()
        assert other["scores"]["full"] == pytest.approx(one["scores"]["full"], rel=1e-10)
        assert other["scores"]["deficient"] == pytest.approx(one["scores"]["deficient"], rel=1e-6)
