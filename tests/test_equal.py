import torch, copy, pytest
from workbench import bench
from workbench.training import build, make_accelerator, d_step, g_step


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(attention_variant="paper"),
        dict(num_classes=0, data="folder"),
        dict(sn_g=False),
        dict(attention_block="residual"),
        dict(image_size=64, attention_g="32", attention_d="32"),
        dict(batch_norm_group=4),
    ],
)
def test_fast_equals_plain(tiny, changes):
    config = tiny(dtype="float64", batch_size=8, **changes)
    fast = build(config, make_accelerator(config))
    plain = build(config, make_accelerator(config))
    for nets in (fast, plain):
        for net in (nets.generator, nets.discriminator):
            for layer in net.attention.values():
                if hasattr(layer, "gamma"):
                    layer.gamma.data.fill_(0.7)
        for norm in nets.generator.modules():
            if hasattr(norm, "gain"):
                torch.manual_seed(3)
                norm.gain.data.uniform_(0.5, 1.5)
                norm.bias.data.normal_()
        nets.grads = {}
        for letter, net, opt in (("d", nets.discriminator, nets.optimizer_d), ("g", nets.generator, nets.optimizer_g)):

            def note(*a, letter=letter, net=net, nets=nets, **k):
                nets.grads[letter] = {n: p.grad.clone() for n, p in net.named_parameters()}

            getattr(opt, "optimizer", opt).register_step_pre_hook(note)
    x = torch.randint(0, 256, (8, 3, config.image_size, config.image_size), dtype=torch.uint8)
    y = torch.randint(6, (8,))
    for step in range(2):
        a = torch.cat([d_step(fast, step, 0, [(x, y)])[:3], g_step(fast, step)[:1]])
        b = torch.cat([bench.plain_d_step(plain, step, x, y), bench.plain_g_step(plain, step)])
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
        for k in "dg":
            for n in fast.grads[k]:
                u, v = fast.grads[k][n], plain.grads[k][n]
                assert (u - v).abs().max() <= 1e-9 * max(1, v.abs().max()), (k, n, (u - v).abs().max(), v.abs().max())
