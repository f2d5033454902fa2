import pytest
import torch

from workbench import Evaluation, Generator
from workbench.evaluation import Samples
from workbench.metrics.protocols import protocol
from workbench.model import sampling


@pytest.mark.slow
def test_samples_are_functions_of_their_index(run):
    samples = Samples(run.generator(), protocol("official"), seed=3, batch_size=7)
    x, y = samples(0, 300)
    part, classes = samples(250, 20)
    assert torch.equal(classes, y[250:270]) and (part - x[250:270]).abs().max() < 1e-5
    assert torch.equal(y[:7], torch.tensor([0, 1, 2, 3, 4, 5, 0]))
    z = sampling.latents(300, run.config.z_dim, 3)
    assert (sampling.images(run.generator(), z, y) - x).abs().max() < 1e-5


@pytest.mark.slow
def test_statistics_and_truncation_are_options_that_change_images(run):
    def images(**changes):
        return Samples(run.generator(), protocol("official", **changes), seed=0, batch_size=64)(0, 64)[0]

    plain = images()
    for changes in (dict(statistics="standing"), dict(statistics="batch"), dict(truncation=0.3)):
        assert (images(**changes) - plain).abs().max() > 1e-3
        assert torch.equal(images(**changes), images(**changes))
    # Batch statistics are those of 64 images, whatever the batch size.
    generator, seen = run.generator(), []
    generator.norm.register_forward_hook(lambda module, inputs, output: seen.append((len(inputs[0]), module.training)))
    Samples(generator, protocol("official", statistics="batch"), seed=0, batch_size=5)(0, 128)
    assert seen == [(64, True)] * 2


def test_a_batch_shows_classes_of_the_whole_range(tiny):
    """Batch statistics of neighbouring classes are not those that G was trained with."""
    samples = Samples(Generator(tiny(num_classes=1000)), protocol("official", statistics="batch"), seed=0)
    _, y = samples(0, 256)
    for batch in y.split(64):
        assert torch.bincount(batch // 250, minlength=4).min() > 5
    assert torch.equal(samples(64, 64)[1], y[64:128])


def test_truncation_re_estimates_the_statistics_by_default():
    assert Evaluation(truncation=0.5).resolved_protocol(6).statistics == "standing"
    assert Evaluation(truncation=0.5, statistics="running").resolved_protocol(6).statistics == "running"
    assert Evaluation().resolved_protocol(6).statistics == "running"
    assert Evaluation(protocol="biggan", truncation=0.5).resolved_protocol(6).standing_batches == 100


def test_images_per_class_decide_n():
    assert Evaluation(protocol="miyato-koyama").resolved_protocol(10).n == 50_000
    assert Evaluation(protocol="miyato-koyama").resolved_protocol(1000).n == 5_000_000
    assert Evaluation(protocol="miyato-koyama", n=100).resolved_protocol(10).n == 100
