import numpy as np
import torch

from workbench.metrics import twins_training
from workbench.metrics.twins_classifier import load
from workbench.metrics.twins_training import accuracy


def test_the_script_trains_weights_that_can_be_loaded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(twins_training, "BATCH", 16)
    monkeypatch.setattr(twins_training, "accuracy", lambda net: accuracy(net, count=200))
    assert twins_training.main(["--out", str(tmp_path / "new"), "--steps", "3", "--seed", "1"]) == 0
    (path,) = (tmp_path / "new").iterdir()
    output = capsys.readouterr().out
    assert str(path) in output and "held-out" in output
    again, other = twins_training.train(1, 3).state_dict(), twins_training.train(2, 3).state_dict()
    for name, weight in load(path).state_dict().items():
        assert torch.equal(weight, again[name]) and not torch.equal(weight, other[name])
    assert twins_training.main(["--out", str(tmp_path), "--steps", "0"]) == 2


def test_training_learns(monkeypatch):
    losses, loss = [], twins_training.loss

    def recorded(*arguments):
        losses.append(loss(*arguments))
        return losses[-1]

    monkeypatch.setattr(twins_training, "loss", recorded)
    monkeypatch.setattr(twins_training, "BATCH", 32)
    monkeypatch.setattr(twins_training, "WARM_UP", 5)
    twins_training.train(0, 30)
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_spoiled_images_say_what_they_hold():
    """The halves of one half of the drawn images agree; corruptions have the strengths told."""
    drawn = twins_training.draw(np.random.default_rng(0), 400)
    images, attributes = drawn["images"], drawn["attributes"]
    assert images.shape == (400, 3, 32, 32) and images.min() >= 0 and images.max() <= 1
    whole = torch.arange(400) % 2 == 0
    assert torch.equal(images[whole], images[whole].flip(3)) and torch.equal(attributes[whole, 0], attributes[whole, 1])
    assert drawn["present"][whole].all() and not drawn["present"].all() and attributes.abs().max() < 2
    assert ((images[~whole] - images[~whole].flip(3)).abs().amax((1, 2, 3)) > 0).float().mean() > 0.9
    spoiled, strengths = twins_training.corrupt(images, np.random.default_rng(1))
    change = (spoiled - images).abs().amax((1, 2, 3))
    assert change[(strengths == 0).all(1)].max() < 1e-6 and change[(strengths != 0).any(1)].min() > 0
    assert 0.4 < (strengths != 0).any(1).float().mean() < 0.55
