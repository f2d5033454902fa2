"""Runs opened from files of other code bases equal their networks, written once more as plain functions (`published.py`)."""

import hashlib
import random
from dataclasses import replace

import pytest
import torch
from published import STYLES, discriminator, generator, random_tensors
from safetensors.torch import save_file

from workbench import Config, ParameterError, Run, SelfAttention, WorkbenchError, cli, open_checkpoint, train
from workbench.files import UnreadableError
from workbench.foreign.recognise import LAYOUTS
from workbench.paths import outputs_dir
from workbench.runs.checkpoints import read_checkpoint

FIVE = (True, True, True, True, False)  # which blocks of D halve the map, at 64 px
MMGENERATION = "sagan_cifar10_32_lr2e-4_ndisc5_b64x1_woReUinplace_is-iter400000_20210730-4008a9ca.pth"
INPLACE = "sagan_cifar10_32_lr2e-4_ndisc5_b64x1_wReLUinplace_fid-iter460000_20210730-cbefb354.pth"
CONVERTED = "sagan_32_cifar10_convert-studio-rgb_20210730_153321-080da7e2.pth"


class Published:
    """A published checkpoint: its files, and its images, logits and maps."""

    def __init__(self, file, layout, size=32, dtype=torch.float64, name=MMGENERATION, inplace=False, bgr=False):
        self.size, self.style, self.inplace, self.bgr = size, STYLES[layout], inplace, bgr
        if layout.startswith("mmgeneration"):
            s = random_tensors(layout, dtype=dtype)
            main = "generator_ema" if "biggan" in layout else "generator"  # what a run shows by default
            self.g, self.d = (
                {k.removeprefix(f"{net}."): v for k, v in s.items() if k.startswith(f"{net}.")} for net in (main, "discriminator")
            )
            self.files = [file(dict(state_dict=s, meta=dict(iter=400_000, env_info="text")), name)]
            return
        part = f"{layout} 64" if layout == "studiogan" and size == 64 else layout
        self.g, self.d = random_tensors(f"{part} G", dtype=dtype), random_tensors(f"{part} D", 1, dtype) if "shared" not in layout else None
        wrap = (lambda s: dict(state_dict=s, optimizer=dict(state={}), step=1000)) if layout == "studiogan" else dict
        self.files = [file(wrap(s), name) for s, name in ((self.g, "G_best.pth"), (self.d, "D_best.pth")) if s]

    def __call__(self, z, y, x):
        flip = (lambda t: t.flip(1)) if self.bgr else (lambda t: t)
        maps = []
        images = flip(generator(self.g, z, y, self.style, maps))
        halving = FIVE if self.size == 64 else (True, True, False, False)
        logits = discriminator(self.d, flip(x), y, self.style, maps, self.inplace, halving) if self.d else None
        return images, logits, maps


def opened(run, z, y, x):
    """Images, logits and maps of a run."""
    maps = []
    hook = lambda layer, inputs: maps.append(torch.softmax(layer.project(inputs[0])[0] @ layer.project(inputs[0])[1].transpose(1, 2), 2))  # noqa: E731
    networks = [run.generator(weights="auto"), *([run.discriminator()] if x is not None else [])]
    for network in networks:
        for layer in (layer for layer in network.modules() if isinstance(layer, SelfAttention)):
            layer.register_forward_pre_hook(hook)
    return networks[0](z, y), networks[1](x, y) if x is not None else None, maps


def difference(published, run):
    """The largest difference of images, logits and maps."""
    dtype = next(iter(published.g.values())).dtype
    rng = torch.Generator().manual_seed(5)
    z, y = torch.randn(3, 8, generator=rng, dtype=torch.float64).to(dtype), torch.tensor([5, 0, 2])
    x = torch.tanh(torch.randn(3, 3, published.size, published.size, generator=rng, dtype=torch.float64)).to(dtype)
    theirs, ours = published(z, y, x), opened(run, z, y, x if published.d else None)
    assert len(theirs[2]) == len(ours[2]) > 0
    pairs = [(a, b) for a, b in ((theirs[0], ours[0]), (theirs[1], ours[1]), *zip(theirs[2], ours[2], strict=True)) if a is not None]
    assert pairs[0][0].std() > 0.1 and all(a.shape == b.shape for a, b in pairs)  # images that vary
    return max(((a - b).abs().max() / max(1, a.abs().max())).item() for a, b in pairs)


CASES = [
    dict(layout="biggan-pytorch", size=64), dict(layout="biggan-pytorch shared"), dict(layout="studiogan", inplace=True),
    dict(layout="studiogan", size=64, inplace=True), dict(layout="mmgeneration", bgr=True),
    dict(layout="mmgeneration", name=INPLACE, bgr=True, inplace=True), dict(layout="mmgeneration", name=CONVERTED, inplace=True),
    dict(layout="mmgeneration biggan", bgr=True),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(map(str, case.values())))
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_an_opened_run_is_the_published_network(file, case, dtype, bound):
    published = Published(file, **case, dtype=dtype)
    run = open_checkpoint(published.files)
    assert run.config.dtype == str(dtype).removeprefix("torch.")
    assert difference(published, run) < bound


@pytest.mark.parametrize(
    ("case", "fault"),
    [
        (dict(layout="mmgeneration", bgr=True), dict(channel_order="rgb")),
        (dict(layout="mmgeneration", name=INPLACE, bgr=True, inplace=True), dict(d_relu_inplace=False)),
        (dict(layout="studiogan", inplace=True), dict(d_relu_inplace=False)),
        (dict(layout="studiogan", inplace=True), dict(channel_order="bgr")),
        (dict(layout="studiogan", inplace=True), dict(batch_norm_eps=1e-5)),
        (dict(layout="mmgeneration biggan", bgr=True), dict(batch_norm_eps=1e-4)),
    ],
)
def test_the_comparison_sees_a_wrong_setting(file, case, fault):
    published = Published(file, **case)
    assert difference(published, open_checkpoint(published.files, **fault)) > 1e-6


@pytest.mark.parametrize("layout", ["biggan-pytorch", "mmgeneration"])
def test_the_comparison_sees_gains_without_their_1(file, layout, monkeypatch):
    published = Published(file, layout, size=64 if layout == "biggan-pytorch" else 32, bgr=layout == "mmgeneration")
    right = LAYOUTS[layout]
    monkeypatch.setitem(LAYOUTS, layout, replace(right, facts=lambda weights: replace(right.facts(weights), gain_offset=0.0)))
    assert difference(published, open_checkpoint(published.files)) > 1e-3


def test_gains_that_begin_at_1_are_stored_as_they_are(file):
    """mmgeneration's own SAGAN initialisation, which only the configuration in the file tells."""
    published = Published(file, "mmgeneration", bgr=True)
    plain = published.style | {
        "gains": lambda s, norm: tuple(g - shift for g, shift in zip(STYLES["mmgeneration"]["gains"](s, norm), (1, 0), strict=True))
    }
    published.style = plain
    path = file(dict(state_dict=torch.load(published.files[0])["state_dict"], meta=dict(config="init_cfg=dict(type='SAGAN')")), "other.pth")
    assert difference(published, open_checkpoint(path)) < 1e-12


def test_the_configuration_in_a_file_of_mmgeneration_counts_more_than_its_name(file):
    s = random_tensors("mmgeneration", dtype=torch.float32)
    text = "norm_eps=2e-05,\nact_cfg=dict(type='ReLU', inplace=True),\ninit_cfg=dict(type='studio')\ndisc_steps=4"
    run = open_checkpoint(file(dict(state_dict=s, meta=dict(config=text, iter=4000)), "renamed.pth"))
    assert (run.config.batch_norm_eps, run.config.d_relu_inplace, run.checkpoint_steps()) == (2e-5, True, [1000])
    plain = open_checkpoint(file(s, "ndisc5-iter500.pth"))
    assert (plain.config.batch_norm_eps, plain.config.d_relu_inplace, plain.checkpoint_steps()) == (1e-4, False, [100])
    odd = open_checkpoint(file(dict(state_dict=s, meta=dict(config=3, iter=-1)), "odd.pth"))
    assert odd.checkpoint_steps() == [0]


# ----------------------------------------------------------------------------------------------------------- the run


def test_the_run_has_settings_step_and_provenance(file):
    published = Published(file, "mmgeneration", dtype=torch.float32)
    run = open_checkpoint(published.files[0])
    config = run.config
    assert (config.image_size, config.width, config.width_d, config.max_multiplier, config.z_dim) == (32, 16, None, 1, 8)
    assert (config.attention_g, config.attention_d, config.num_classes, config.sn_gains) == ("16", "16", 6, True)
    assert (config.batch_norm_eps, config.ema_decay, config.d_downsamples, config.d_flat_blocks) == (1e-4, 0, 2, 2)
    assert run.checkpoint_steps() == [80_000] and run.name == MMGENERATION.removesuffix(".pth")  # 400,000 steps of D, five to one of G
    record = run.provenance["opened"]
    assert record["files"] == [dict(name=MMGENERATION, sha256=hashlib.sha256(published.files[0].read_bytes()).hexdigest())]
    assert (record["layout"], record["channel_order"]) == ("mmgeneration", "bgr")
    assert run.status()["state"] == "stopped" and MMGENERATION in run.status()["message"]


def test_a_second_opening_is_the_same_run_and_another_file_another(file):
    g = random_tensors("biggan-pytorch G")
    path = file(g, "G.pth")
    run = open_checkpoint(path)
    assert (run.config.attention_g, run.config.attention_d) == ("32", "none")  # without D, views have no layers of D
    assert open_checkpoint(str(path)).path == run.path
    assert open_checkpoint(path, batch_norm_eps=1e-4).name == "G-2"
    assert open_checkpoint(path, name="mine").name == "mine" == open_checkpoint(path, name="mine").name
    file(g | {"linear.bias": g["linear.bias"] + 1}, "G.pth")
    assert open_checkpoint(path).name == "G-3"
    with pytest.raises(ParameterError, match="name='mine': there is a run of this name"):
        open_checkpoint(path, name="mine")


def test_the_format_of_the_file_does_not_matter(file, tmp_path):
    g = random_tensors("studiogan G")
    paths = [file(g, "zip.pth"), file({f"module.{k}": v for k, v in g.items()}, "legacy.pth", _use_new_zipfile_serialization=False)]
    save_file(g, tmp_path / "safe.safetensors")
    runs = [open_checkpoint(path) for path in (*paths, tmp_path / "safe.safetensors")]
    files = [read_checkpoint(run.checkpoint_path())[0]["generator"] for run in runs]
    assert all(torch.equal(tensor, other[name]) for other in files[1:] for name, tensor in files[0].items())
    assert len({run.name for run in runs}) == 3 and runs[0].config.data.endswith("zip")
    half = open_checkpoint(file({k: v.half() if v.is_floating_point() else v for k, v in g.items()}, "half.pth"))
    assert half.config.dtype == "float32" and half.generator(weights="raw")(torch.randn(1, 8), torch.tensor([0])).isfinite().all()


def test_training_goes_on_from_an_opened_run(file, capsys):
    published = Published(file, "mmgeneration biggan", dtype=torch.float32)
    run = open_checkpoint(published.files)
    raw, ema = run.generator(weights="raw"), run.generator(weights="ema")
    assert not torch.equal(raw.linear.bias, ema.linear.bias)  # drawn apart
    fork = Config.from_parameters(
        dict(
            resume=f"{run.name}@80000",
            steps=80_001,
            data="twins",
            batch_size=4,
            d_steps=1,
            evaluate_every=0,
            ema_decay=0.9,
            mixed_precision="no",
        )
    )
    trained = train(fork)
    assert "the optimisers start fresh" in capsys.readouterr().err
    before, after, new = ema.linear.bias, trained.generator(weights="ema").linear.bias, trained.generator(weights="raw").linear.bias
    assert torch.allclose(after, 0.9 * before + 0.1 * new, atol=1e-6)
    assert trained.provenance["parent"] == dict(run=run.name, step=80_000) and "opened" not in trained.provenance
    assert trained.history()[-1]["step"] == 80_001


def test_training_goes_on_from_an_ema_alone_and_in_the_run_itself(file, capsys):
    g, d = random_tensors("studiogan G", dtype=torch.float32), random_tensors("studiogan D", dtype=torch.float32)
    files = [file(dict(state_dict=s), name) for s, name in ((g, "model=G_ema-best.pth"), (d, "model=D-best.pth"))]
    run = open_checkpoint(files, data="twins", batch_size=4, d_steps=1, evaluate_every=0, mixed_precision="no", steps=5)
    with pytest.raises(WorkbenchError, match=r"keeps no raw weights of G \(weights='raw'\); it has: EMA of G"):
        run.generator(weights="raw")
    again = train(Config.from_parameters(dict(resume=f"{run.name}@0", steps=1)))
    assert "and G from its EMA" in capsys.readouterr().err and again.checkpoint_steps() == [1]
    alone = open_checkpoint(files[0], name="alone", data="twins", batch_size=4, steps=5)
    with pytest.raises(WorkbenchError, match="it has no discriminator"):
        train(Config.from_parameters(dict(resume="alone@0", steps=1)))
    assert alone.status()["message"].endswith("without generator and discriminator")


# -------------------------------------------------------------------------------------------------------- refusals


def refusal(*arguments, **settings):
    with pytest.raises((UnreadableError, ParameterError)) as caught:
        open_checkpoint(*arguments, **settings)
    assert "\n" not in str(caught.value) and not list(outputs_dir().glob("*/config.json"))
    return str(caught.value)


def test_what_is_unknown_missing_or_of_another_shape_is_listed(file):
    g = random_tensors("biggan-pytorch G")
    changed = {k: v for k, v in g.items() if k not in ("blocks.1.0.conv2.bias", "linear.u0x")} | {"surprise.weight": torch.ones(2)}
    changed["blocks.2.0.bn2.gain.weight"] = torch.ones(6, 5, dtype=torch.float64)
    message = refusal(file(changed, "G.pth"))
    assert "1 unknown: surprise.weight; 1 missing: blocks.1.0.conv2 (bias)" in message
    assert "1 of another shape: blocks.2.0.bn2.gain.weight (6, 5), expected (6, 16)" in message
    without = {k: v for k, v in random_tensors("studiogan G").items() if k not in ("linear0.weight_u", "blocks.1.0.conv2d1.weight_v")}
    assert "missing: blocks.1.0.conv2d1 (u), blocks.1.0.conv2d1 (v), linear0 (u), linear0 (v)" in refusal(file(without, "G.pth"))


def test_variants_that_do_not_fit_are_refused_with_the_reason(file):
    assert "hierarchical latents" in refusal(file(random_tensors("biggan-pytorch hierarchical G"), "G.pth"))
    shared, d = random_tensors("biggan-pytorch shared G"), file(random_tensors("biggan-pytorch 32 D"), "D.pth")
    assert "its D has attention after blocks that keep the size of the map (blocks.2.1.theta)" in refusal([file(shared, "G.pth"), d])
    g = file(random_tensors("biggan-pytorch G"), "G.pth")
    assert "its D has 4 blocks, and one for 64 px has 5" in refusal([g, d])
    assert "holds no generator" in refusal(d)
    assert "there are 4 blocks, expected 3" in refusal([file(shared, "G.pth"), file(random_tensors("biggan-pytorch G"), "G_ema.pth")])
    assert "missing: all blocks of G" in refusal(file({k: v for k, v in shared.items() if "blocks" not in k}, "G.pth"))
    assert "ships with the package" in refusal(file(shared, "demo.pth"))
    assert "G.pth and G2.pth both hold a generator" in refusal([g, file(random_tensors("biggan-pytorch G"), "G2.pth")])
    assert "G is from BigGAN-PyTorch, and another file from PyTorch-StudioGAN" in refusal(
        [g, file(random_tensors("studiogan D"), "D2.pth")]
    )
    wide = random_tensors("biggan-pytorch G")
    wide |= {"blocks.1.0.conv1.weight": torch.ones(48, 64, 3, 3), "blocks.1.0.conv1.u0": torch.ones(1, 48)}
    assert "the maps of its G have 64, 64, 48, 16, 8 channels; a SAGAN of this width has 64, 64, 32, 16, 8" in refusal(file(wide, "G.pth"))


@pytest.mark.parametrize("listing", ["biggan-pytorch shared G", "mmgeneration", "studiogan G"])
def test_damaged_names_shapes_and_types_open_or_end_in_one_line(file, listing):
    rng, whole = random.Random(0), random_tensors(listing, dtype=torch.float32)
    for _ in range(12):
        tensors = dict(whole)
        for name in rng.sample(sorted(whole), 2):
            tensor = tensors.pop(name)
            damaged = [
                {}, {f"{name}.x": tensor}, {name: tensor[None]}, {name: tensor.flatten()}, {name: tensor.flatten()[:-1]}, {name: torch.ones(0)},
                {name: tensor.to(torch.int64)}, {name: tensor.double()}, {name: next(iter(tensors.values()))}, {name: torch.ones(2, 3, 5, 1)},
            ]  # fmt: skip
            tensors |= rng.choice(damaged)
        try:
            open_checkpoint(file(tensors, "G.pth")).generator(weights="auto")
        except WorkbenchError as error:
            assert "\n" not in str(error)


def test_standing_statistics_are_divided_by_their_count(file):
    g = random_tensors("biggan-pytorch shared G")
    sums = {k: v * 4 if "stored" in k else torch.full((1,), 4.0, dtype=v.dtype) if "counter" in k else v for k, v in g.items()}
    runs = [open_checkpoint(file(tensors, name)) for tensors, name in ((g, "a.pth"), (sums, "b.pth"))]
    z, y = torch.randn(2, 8, dtype=torch.float64), torch.tensor([0, 1])
    assert torch.allclose(*(run.generator(weights="raw")(z, y) for run in runs), rtol=0, atol=1e-12)


def test_the_command_opens_a_file_and_says_how_to_go_on(file, capsys):
    published = Published(file, "studiogan", dtype=torch.float32)
    assert cli.main(["open", *map(str, published.files), "--name", "studio", "-p", "data", "twins"]) == 0
    out = capsys.readouterr().out
    assert "opened from G_best.pth, D_best.pth" in out and "train -p resume studio@1000 -p steps 2000" in out
    assert Run("studio").config.data == "twins"
    assert cli.main(["open", str(published.files[1])]) == 2
    assert "holds no generator" in capsys.readouterr().err
