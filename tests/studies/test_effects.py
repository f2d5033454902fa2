import pytest
import torch
import torch.nn.functional as F

from workbench import Discriminator, Generator, ParameterError, WorkbenchError
from workbench.attention import effect
from workbench.model import sampling
from workbench.studies.effects import QUANTITIES, batches, measure, summarise
from workbench.studies.significance import bootstrap

KEYS, QUERIES, N = (2, 7, 9), (0, 27, 28), 6


@pytest.fixture
def generator(tiny):
    generator = Generator(tiny(attention_g="8")).eval()
    generator.attention["8"].gamma.data.fill_(10.0)
    return generator


@pytest.fixture
def inputs():
    return 3 * torch.randn(N, 8), torch.arange(N)


def mask(keys, queries=None):
    forbid = torch.zeros(64, 16, dtype=torch.bool)
    for query in range(64) if queries is None else queries:
        for key in keys:
            forbid[query, key] = True
    return forbid


def rms(change):
    return change.double().square().mean().sqrt().item()


@pytest.mark.parametrize("queries", [None, QUERIES])
def test_effects_are_those_of_a_loop_over_samples(generator, inputs, queries):
    """One sample after the other with `effect`, also for the random keys; over the pixels of the pins by unfolding the image."""
    numbers = measure(generator, inputs, "attention.8", keys=KEYS, queries=queries)
    assert numbers.keys() == ({"image"} if queries is None else {"image", "pins"})
    for k in range(N):
        one = (inputs[0][k : k + 1], inputs[1][k : k + 1])
        random = torch.randperm(16, generator=sampling.rng(0, 11, k))[: len(KEYS)].tolist()
        for part, keys in ((1, KEYS), (2, random)):
            change = effect(generator, one, "attention.8", forbid=mask(keys, queries)).difference
            assert numbers["image"][part][k].item() == pytest.approx(rms(change), rel=1e-3)
            assert rms(change) > 1e-5
            if queries:
                pixels = F.unfold(change, 4, stride=4)[0][:, list(queries)]
                assert numbers["pins"][part][k].item() == pytest.approx(rms(pixels), rel=1e-3)
    assert not numbers["image"][0].any()


@pytest.mark.parametrize("how", [dict(gamma=0.0), dict(replace="uniform"), dict(replace="local"), dict(replace="local", keys=(2,))])
def test_other_interventions_have_no_random_keys(generator, inputs, how):
    numbers = measure(generator, inputs, "attention.8", **how)
    forbid = dict(forbid=mask(how.pop("keys"))) if "keys" in how else {}
    change = effect(generator, inputs, "attention.8", **how, **forbid).difference
    assert len(numbers["image"]) == 2
    assert numbers["image"][1].tolist() == pytest.approx([rms(one) for one in change], rel=1e-3)
    (row,) = summarise([numbers])
    assert row["null"] is row["more_low"] is row["before"] is None and row["low"] < row["change"] < row["high"]


def test_d_has_signed_changes_of_its_logit(tiny):
    discriminator = Discriminator(tiny(attention_d="8")).eval()
    discriminator.attention["8"].gamma.data.fill_(3.0)
    inputs = 2 * torch.rand(N, 3, 32, 32) - 1, torch.arange(N)
    (row,) = summarise([measure(discriminator, inputs, "attention.8", gamma=0.0)])
    change = effect(discriminator, inputs, "attention.8", gamma=0.0)
    assert row["quantity"] == QUANTITIES["logit"] and row["n"] == N
    assert row["before"] == pytest.approx(change.before.mean().item(), rel=1e-4)
    assert row["change"] == pytest.approx(change.difference.mean().item(), rel=1e-3)


@pytest.mark.parametrize("how", [dict(gamma=0.0), dict(replace="uniform"), dict(keys=KEYS), dict(keys=KEYS, queries=QUERIES)])
def test_a_layer_that_does_nothing_has_no_effect_to_the_last_bit(generator, inputs, how):
    generator.attention["8"].gamma.data.zero_()
    for row in summarise([measure(generator, inputs, "attention.8", hue=lambda x, y: x.mean((1, 2, 3)), **how)]):
        values = [row[name] for name in ("change", "low", "high", *(("null_low", "more_low", "more_high") if "keys" in how else ()))]
        assert values == [0.0] * len(values)
    generator.attention["8"].gamma.data.fill_(10.0)  # or is switched off
    numbers = measure(generator, inputs, "attention.8", attention_off=True, **how)
    assert not any(part.any() for part in numbers["image"])


def test_numbers_do_not_depend_on_batches(generator, inputs):
    whole = measure(generator, inputs, "attention.8", keys=KEYS)["image"]
    halves = [measure(generator, tuple(x[k : k + 3] for x in inputs), "attention.8", keys=KEYS, samples=range(k, k + 3)) for k in (0, 3)]
    for part in range(3):
        torch.testing.assert_close(torch.cat([half["image"][part] for half in halves]), whole[part], rtol=1e-3, atol=1e-7)
    assert [len(part) for part in batches(32)] == [16] * 4 and batches(128, 3) == [range(0, 1), range(1, 2), range(2, 3)]


def test_rows_are_paired_means_with_intervals():
    before, after, null = (torch.randn(40, dtype=torch.float64, generator=sampling.rng(k)) for k in range(3))
    (row,) = summarise([{"hue": (before[:15], after[:15], null[:15])}, {"hue": (before[15:], after[15:], null[15:])}])
    assert row["n"] == 40 and row["before"] == pytest.approx(before.mean().item())
    for name, values in (("change", after - before), ("null", null - before), ("more", after - null)):
        prefix = "" if name == "change" else f"{name}_"
        assert row[name] == pytest.approx(values.mean().item())
        assert (row[f"{prefix}low"], row[f"{prefix}high"]) == pytest.approx(bootstrap(values.numpy()))


def test_an_effect_that_is_planted_is_found(generator, inputs):
    """Keys that all look at matter more than random ones: the interval of the difference excludes 0; keys drawn at random do not."""
    query, key, value = generator.attention["8"].query, generator.attention["8"].key, generator.attention["8"].value
    with torch.no_grad():
        for part in (query, key, value):
            torch.nn.utils.parametrize.remove_parametrizations(part, "weight")

    class Planted(torch.nn.Module):
        """Every query has a large logit for key 5."""

        def forward(self, x):
            return 0 * x[:, : query.weight.shape[0]] + 1

    class At(torch.nn.Module):
        def forward(self, x):
            scores = 0 * x[:, : key.weight.shape[0]]
            scores[:, :, 2:4, 2:4] = 6.0  # of the 8x8 map: key (1, 1) of 4x4
            return scores

    generator.attention["8"].query, generator.attention["8"].key = Planted(), At()
    z, y = 3 * torch.randn(32, 8), torch.arange(32) % 6
    (row,) = summarise([measure(generator, (z, y), "attention.8", keys=(5,))])
    assert row["more_low"] > 0 and row["change"] > 10 * row["null"]
    (row,) = summarise([measure(generator, (z, y), "attention.8", keys=(3,))])
    assert row["more"] < 0


def test_what_cannot_be_measured(generator, inputs):
    with pytest.raises(ParameterError, match="forbid leaves query 0 no key"):
        measure(generator, inputs, "attention.8", keys=range(16))
    with pytest.raises(WorkbenchError, match=r"no attention layer 'attention\.9'"):
        measure(generator, inputs, "attention.9", gamma=0.0)
    generator.attention["8"].gamma.data.fill_(torch.nan)
    with pytest.raises(WorkbenchError, match=r"change of the image \(RMS\): some values are not finite"):
        summarise([measure(generator, inputs, "attention.8", gamma=0.0)])
