import math

import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils import parametrize

from workbench import Config, Discriminator, Generator, ParameterError, SelfAttention
from workbench.model.attention import ResidualBlock
from workbench.model.layers import BatchNorm, DownConv, SpectralNorm, UpConv, power_iteration


def parameters(net):
    return sum(p.numel() for p in net.parameters())


def test_parameter_counts_of_the_released_code():
    config = Config.preset("imagenet128")
    assert parameters(Generator(config)) == 42_078_852
    assert parameters(Discriminator(config)) == 39_463_618


def slow_attention(layer, x):
    """Equations 1 to 3 with loops over images, queries and keys."""
    weight = {name: getattr(layer, name).weight[:, :, 0, 0] for name in ("query", "key", "value", "output")}
    height, width = x.shape[2:]
    step = 2 if layer.variant == "official" else 1  # side of the cells that keys and values are pooled over
    result = x.clone()
    for b in range(len(x)):
        at = {(i, j): x[b, :, i, j] for i in range(height) for j in range(width)}
        keys, values = [], []
        for i in range(0, height, step):
            for j in range(0, width, step):
                cell = [at[i + di, j + dj] for di in range(step) for dj in range(step)]
                keys.append(torch.stack([weight["key"] @ v for v in cell]).amax(0))
                values.append(torch.stack([weight["value"] @ v for v in cell]).amax(0))
        for (i, j), v in at.items():
            query = weight["query"] @ v
            exponentials = [math.exp(float(query @ key)) for key in keys]
            o = sum(e / sum(exponentials) * value for e, value in zip(exponentials, values, strict=True))
            result[b, :, i, j] += layer.gamma * (weight["output"] @ o)
    return result


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_attention_equals_a_slow_loop(variant):
    layer = SelfAttention(16, variant).double()
    layer.gamma.data.fill_(0.7)
    x = torch.randn(2, 16, 4, 6, dtype=torch.float64)
    with torch.no_grad():
        fast, slow = layer(x), slow_attention(layer, x)
        assert (fast - slow).abs().max() < 1e-12
        channels_last = layer(x.contiguous(memory_format=torch.channels_last))
        assert (channels_last - slow).abs().max() < 1e-12


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_softmax_runs_over_the_keys(variant):
    """Constant values give that constant at every query, whatever queries and keys are."""
    layer = SelfAttention(16, variant).double()
    layer.gamma.data.fill_(1.0)
    x = torch.randn(2, 16, 8, 8, dtype=torch.float64)
    constant = torch.randn(1, layer.value.out_channels, 1, 1, dtype=torch.float64)
    layer.value.forward = lambda x: constant.expand(len(x), -1, *x.shape[2:])
    with torch.no_grad():
        expected = x + layer.output(constant)
        assert (layer(x) - expected).abs().max() < 1e-12


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_attention_at_gamma_zero_is_the_identity(variant):
    layer = SelfAttention(32, variant)
    x = torch.randn(2, 32, 8, 8)
    assert layer.gamma.shape == () and layer.gamma == 0
    assert torch.equal(layer(x), x)
    layer(x).square().sum().backward()
    assert layer.gamma.grad != 0  # and can leave it


def test_under_autocast_on_a_cpu_the_fused_kernel_stays_in_float32(monkeypatch):
    """Its backward pass in bf16 takes several times as long; everything around it is in bf16."""
    layer, x, kernel = SelfAttention(16), torch.randn(2, 16, 8, 8), F.scaled_dot_product_attention
    layer.gamma.data.fill_(1.0)
    seen = []

    def recorded(query, key, value, **options):
        seen.append((query.dtype, key.dtype, value.dtype, torch.is_autocast_enabled("cpu")))
        return kernel(query, key, value, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", recorded)
    layer.output.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert seen == [(torch.float32,) * 3 + (False,), torch.bfloat16]
    assert 0 < (y - layer(x)).abs().max() < 0.03


def test_attention_alone_has_neither_biases_nor_spectral_norm():
    layer = SelfAttention(32)
    assert {name for name, _ in layer.named_parameters()} == {"gamma", *(f"{n}.weight" for n in ("query", "key", "value", "output"))}
    assert (layer.query.out_channels, layer.value.out_channels) == (4, 16)
    assert SelfAttention(32, "paper").value.out_channels == 4
    with pytest.raises(ParameterError, match="variant='google'"):
        SelfAttention(32, "google")


@pytest.mark.parametrize(("variant", "tolerance"), [("official", 0.02), ("paper", 0.05)])
def test_residual_block_has_about_the_parameters_of_attention(variant, tolerance):
    block, attention = parameters(ResidualBlock(256, variant)), parameters(SelfAttention(256, variant))
    assert abs(block / attention - 1) < tolerance


@pytest.mark.parametrize("changes", [
    dict(), dict(image_size=64, attention_g="16,64", attention_d="8,32"), dict(num_classes=0), dict(attention_g="none", attention_d="none"),
    dict(attention_variant="paper"), dict(attention_block="residual"), dict(sn_g=False), dict(sn_d=False), dict(preset="cifar10", width=16, width_d=16),
    dict(num_classes=0, sn_gains=True, init="orthogonal", sn_d=False),
])  # fmt: skip
def test_every_combination_has_the_promised_shapes(changes):
    config = Config.preset(changes.pop("preset", "twins32"), **{"width": 8, **changes})
    generator, discriminator = Generator(config), Discriminator(config)
    y = torch.arange(4) if config.num_classes else None
    x = generator(torch.randn(4, config.z_dim), y)
    assert x.shape == (4, 3, config.image_size, config.image_size)
    assert x.abs().max() <= 1
    logits = discriminator(x, y)
    assert logits.shape == (4,)
    logits.sum().backward()
    assert all(p.grad is not None for net in (generator, discriminator) for p in net.parameters())
    for net, sites, on in ((generator, config.sites_g, config.sn_g), (discriminator, config.sites_d, config.sn_d)):
        assert tuple(int(s) for s in net.attention) == sites
        layers = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear) or type(m).__name__.endswith("Embedding")]
        assert layers and all(parametrize.is_parametrized(m, "weight") == on for m in layers)


def test_256_pixels_and_wrong_input():
    config = Config.preset("twins32", image_size=256, width=8, attention_g="64", attention_d="64")
    assert Discriminator(config)(Generator(config)(torch.randn(1, 32), torch.zeros(1).long()), torch.zeros(1).long()).shape == (1,)
    with pytest.raises(ParameterError, match="y is None"):
        Generator(config)(torch.randn(1, 32))
    with pytest.raises(ParameterError, match=r"takes \(B, 32\)"):
        Generator(config)(torch.randn(1, 64), torch.zeros(1).long())
    with pytest.raises(ParameterError, match="num_classes is not known"):
        Generator(Config.preset("twins32", data="/a/folder"))


def test_spectral_norm_against_an_svd():
    net = Discriminator(Config.preset("twins32", width=8)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(3.7)
    power_iteration(net, 500)
    layers = [m for m in net.modules() if parametrize.is_parametrized(m, "weight")]
    assert len(layers) > 15
    for layer in layers:
        largest = torch.linalg.svdvals(layer.weight.flatten(1))[0]
        assert abs(largest - 1) < 1e-6
        original = layer.parametrizations.weight.original
        assert (layer.weight - original / torch.linalg.svdvals(original.flatten(1))[0]).abs().max() < 1e-6


def test_forward_passes_do_not_move_the_power_iteration():
    config = Config.preset("twins32", width=8)
    generator = Generator(config).train()
    before = {k: v.clone() for k, v in generator.named_buffers() if k.endswith((".u", ".v"))}
    generator(torch.randn(4, 32), torch.arange(4))
    assert all(torch.equal(v, before[k]) for k, v in generator.named_buffers() if k in before)
    power_iteration(generator)
    assert not all(torch.equal(v, before[k]) for k, v in generator.named_buffers() if k in before)


def test_gradient_through_sigma():
    """The gradient of W / sigma(W) equals that of torch's own spectral norm with the same u and v."""
    module, reference = torch.nn.Linear(6, 5).double(), torch.nn.Linear(6, 5).double()
    reference.load_state_dict(module.state_dict())
    parametrize.register_parametrization(module, "weight", SpectralNorm(module.weight))
    torch.nn.utils.parametrizations.spectral_norm(reference)
    power_iteration(module, 300)
    for _ in range(300):
        reference(torch.randn(1, 6, dtype=torch.float64))
    reference.eval()
    x = torch.randn(3, 6, dtype=torch.float64)
    for net in (module, reference):
        net(x).pow(3).sum().backward()
    assert (module.parametrizations.weight.original.grad - reference.parametrizations.weight.original.grad).abs().max() < 1e-9


def test_images_do_not_depend_on_batch_mates_in_eval():
    generator = Generator(Config.preset("twins32", width=8)).double()
    z, y = torch.randn(6, 32, dtype=torch.float64), torch.arange(6)
    generator.train()(z, y)
    generator.eval()
    together = generator(z, y)
    alone = torch.cat([generator(z[k : k + 1], y[k : k + 1]) for k in range(6)])
    assert (together - alone).abs().max() < 1e-12
    assert (generator.train()(z, y) - together).abs().max() > 1e-3  # in training they do: the test can fail


def test_batch_norm_equals_torch_and_its_formula():
    module, reference = BatchNorm(5, momentum=0.1).double(), torch.nn.BatchNorm2d(5).double()
    for _ in range(3):
        x = torch.randn(8, 5, 4, 4, dtype=torch.float64) * 2 + 1
        assert (module(x, None) - reference(x)).abs().max() < 1e-12
    assert (module.running_mean - reference.running_mean).abs().max() < 1e-12
    assert (module.running_var - reference.running_var).abs().max() < 1e-12
    assert (module.eval()(x, None) - reference.eval()(x)).abs().max() < 1e-12


def test_batch_norm_normalises_each_group_alone():
    norm = BatchNorm(3, group_size=4, momentum=0.1).double()
    reference = torch.nn.BatchNorm2d(3, affine=False).double()
    x = torch.randn(8, 3, 2, 2, dtype=torch.float64)
    assert (norm(x, None) - torch.cat([reference(part) for part in x.split(4)])).abs().max() < 1e-12
    assert (norm.running_var - reference.running_var).abs().max() < 1e-12  # one group after the other


def test_conditional_batch_norm_looks_gains_up_by_class():
    norm = BatchNorm(3, num_classes=4).double()
    torch.nn.init.normal_(norm.gain)
    torch.nn.init.normal_(norm.bias)
    x, y = torch.randn(5, 3, 2, 2, dtype=torch.float64), torch.tensor([0, 3, 3, 1, 2])
    plain = F.batch_norm(x, None, None, training=True)
    expected = torch.stack([plain[b] * norm.gain[y[b]][:, None, None] + norm.bias[y[b]][:, None, None] for b in range(5)])
    assert (norm(x, y) - expected).abs().max() < 1e-12


def test_gains_of_batch_norm_with_spectral_norm():
    """Gains are 1 + E / sigma(E), biases B / sigma(B), sigma from an SVD; `power_iteration` of the network reaches them."""
    generator = Generator(Config.preset("twins32", width=8, sn_gains=True, batch_norm_eps=0.5)).double()
    norm = generator.blocks["8"].norm1
    weights = [getattr(norm.parametrizations, name).original.detach().mul_(5) for name in ("gain", "bias")]
    u = norm.parametrizations.gain[0].u.clone()
    power_iteration(generator)
    assert not torch.equal(norm.parametrizations.gain[0].u, u)
    power_iteration(norm, 1000)
    gain, bias = (weight / torch.linalg.svdvals(weight)[0] for weight in weights)
    x, y = torch.randn(5, gain.shape[1], 2, 2, dtype=torch.float64), torch.tensor([0, 3, 3, 1, 2])
    plain = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), unbiased=False, keepdim=True) + 0.5).sqrt()
    expected = torch.stack([plain[b] * (1 + gain[y[b]])[:, None, None] + bias[y[b]][:, None, None] for b in range(5)])
    assert (norm(x, y) - expected).abs().max() < 1e-9
    assert generator.norm.gain.eq(1).all(), "the norm without classes has no spectral norm"
    assert (norm.eval()(x, y) - (x / (norm.running_var + 0.5).sqrt()[:, None, None])).abs().max() > 1e-3  # running statistics have moved


@pytest.mark.parametrize("sn", [False, True])
def test_orthogonal_weights_have_equal_singular_values(sn):
    config = Config.preset("twins32", width=8, sn_g=sn, sn_d=sn, sn_gains=sn, init="orthogonal")
    for net in (Generator(config), Discriminator(config)):
        names = [name for name in net.state_dict() if name.endswith(("weight", "weight.original", "gain.original", "bias.original"))]
        assert len(names) >= 15
        for name in names:
            values = torch.linalg.svdvals(net.state_dict()[name].flatten(1))
            assert (values - 1).abs().max() < 1e-5, name
        for module in net.modules():
            if isinstance(module, parametrize.ParametrizationList):  # u and v fit the new weight
                assert module[0].sigma(module.original).item() == pytest.approx(1, abs=1e-5)
    plain = Generator(Config.preset("twins32", width=8)).output.parametrizations.weight.original
    assert (torch.linalg.svdvals(plain.flatten(1)) - 1).abs().max() > 0.01  # the test can fail


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("batch", [2, 8])  # the smaller one is convolved after up-sampling
def test_convolutions_that_change_resolution_are_exact(batch, channels_last):
    x = torch.randn(batch, 4, 8, 8, dtype=torch.float64)
    up, down = UpConv(4, 6, 3, padding=1).double(), DownConv(4, 6, 3, padding=1).double()
    if channels_last:
        x, up, down = (thing.to(memory_format=torch.channels_last) for thing in (x, up, down))
    plain = [F.conv2d(x, layer.weight, layer.bias, padding=1) for layer in (up, down)]
    plain[0] = F.conv2d(F.interpolate(x, scale_factor=2), up.weight, up.bias, padding=1)
    plain[1] = F.avg_pool2d(plain[1], 2)
    for layer, expected in zip((up, down), plain, strict=True):
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-13)
        grad = torch.randn_like(expected)
        gradient, reference = (torch.autograd.grad(y, layer.weight, grad, retain_graph=True)[0] for y in (layer(x), expected))
        torch.testing.assert_close(gradient, reference, rtol=0, atol=1e-11)


@pytest.mark.parametrize("attention", ["16", "none", "32"])
def test_gradients_that_are_zero_but_for_rounding_are_zero(attention):
    """The biases whose gradient is dropped are those that do not change the output: shift them, and nothing happens."""
    config = Config.preset("twins32", width=8, attention_g=attention)
    generator = Generator(config).double().train()
    for layer in generator.attention.values():
        layer.gamma.data.fill_(1.0)
    z, y = torch.randn(4, config.z_dim, dtype=torch.float64), torch.arange(4)
    before = generator(z, y)
    before.pow(3).sum().backward()
    zero = {name for name, p in generator.named_parameters() if name.endswith("bias") and p.grad.abs().max() == 0}
    after = {"16": (32,), "none": (8, 16, 32), "32": ()}[attention]  # blocks behind the last attention
    assert zero == {f"blocks.{s}.conv1.bias" for s in (8, 16, 32)} | {f"blocks.{s}.{c}.bias" for s in after for c in ("conv2", "shortcut")}
    with torch.no_grad():
        for name, p in generator.named_parameters():
            if name in zero:
                p.add_(torch.randn_like(p))
    assert (generator(z, y) - before).abs().max() < 1e-9
    with torch.no_grad():
        generator.output.bias.add_(1.0)  # the test can fail
    assert (generator(z, y) - before).abs().max() > 1e-3
