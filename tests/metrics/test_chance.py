import numpy as np
import pytest
import torch
from torch import nn

from workbench.data.twins import CLASSES, Twins
from workbench.messages import WorkbenchError
from workbench.metrics import twins as small_classifier
from workbench.metrics.chance import at_chance, require_above_chance
from workbench.metrics.extractors import Extractor


class Guesses(nn.Module):
    """Logits of the right class in a share of the images, of any class in the others: twins of seed 0, in order."""

    def __init__(self, share, classes=CLASSES):
        super().__init__()
        self.share, self.classes, self.rng, self.seen = share, list(classes), np.random.default_rng(0), 0

    def forward(self, x):
        right = Twins(32).batch(np.arange(self.seen, self.seen + len(x)))[1].numpy()
        self.seen += len(x) if len(x) > 1 else 0  # one image asks for the widths
        guess = self.rng.integers(6, size=len(x))
        logits = nn.functional.one_hot(torch.from_numpy(np.where(self.rng.random(len(x)) < self.share, right, guess)), 6).float()
        return logits, logits[:, [CLASSES.index(name) for name in self.classes]] if set(self.classes) == set(CLASSES) else logits


@pytest.mark.parametrize("share", [0, 0.3, 1])
@pytest.mark.parametrize("classes", [CLASSES, CLASSES[::-1]])
def test_an_extractor_at_chance_is_refused(share, classes):
    extractor = Extractor(Guesses(share, classes))
    if share:
        return require_above_chance(extractor, Twins(32), 1000, torch.Tensor.float)
    says = r"^extractor 'guesses' recognises the classes of 1,000 real images of twins, no better than by chance \(1\d\.\d%, by chance 1\d"
    with pytest.raises(WorkbenchError, match=says) as error:
        require_above_chance(extractor, Twins(32), 50_000, torch.Tensor.float)
    assert "\n" not in str(error.value)


def test_nothing_is_said_of_too_few_images_or_of_other_classes():
    for extractor, n in ((Extractor(Guesses(0)), 2), (Extractor(Guesses(0, "abcdef")), 1000), (Extractor(nn.Flatten()), 1000)):
        require_above_chance(extractor, Twins(32), n, torch.Tensor.float)


@pytest.mark.slow
@pytest.mark.parametrize("pairs", [2, 4])
def test_the_classifier_of_twins_sees_crops_of_several_pairs(pairs):
    data = Twins(64, pairs=pairs)
    require_above_chance(small_classifier(pairs), data, 1000, torch.Tensor.float)
    with pytest.raises(WorkbenchError, match=r"extractor 'twins' recognises .* no better than by chance"):
        require_above_chance(small_classifier(), data, 1000, torch.Tensor.float)


def test_the_test_errs_as_rarely_as_it_says():
    rng = np.random.default_rng(0)
    unbalanced = np.array([0.7, 0.2, 0.1])
    refused = []
    for classes, shares in ((6, np.full(6, 1 / 6)), (3, unbalanced), (1000, np.full(1000, 1e-3))):
        for _ in range(200):
            labels, guesses = (rng.choice(classes, 500, p=shares) for _ in range(2))
            accuracy, chance, is_at_chance = at_chance(labels, guesses, classes)
            refused.append(is_at_chance)
            assert abs(chance - shares @ shares) < 0.1 and accuracy == (labels == guesses).mean()
    assert np.mean(refused) >= 0.98
    labels = np.arange(600) % 6
    assert at_chance(labels, labels, 6) == (1, pytest.approx(1 / 6), False)
    assert at_chance(labels, np.zeros(600, np.int64), 6)[2]  # one class for all
    assert at_chance(labels, np.where(np.arange(600) % 5 == 0, labels, (labels + 1) % 6), 6)[2]  # a little above chance
    assert not at_chance(np.zeros(600, np.int64), labels, 6)[2]  # real images of one class decide nothing
