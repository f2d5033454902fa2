"""The networks of other code bases once more, as plain functions of the tensors in their files: what an opened run must equal.

`tests/foreign/listings.json.gz` has the names and shapes that these code bases give small networks.
"""

import gzip
import json
import re
from pathlib import Path

import torch
import torch.nn.functional as F

LISTINGS = json.loads(gzip.decompress((Path(__file__).parent / "foreign" / "listings.json.gz").read_bytes()))


def random_tensors(listing, seed=0, dtype=torch.float64):
    """Tensors of these names and shapes: gamma away from 0, statistics away from the identity, u a few iterations behind its weight."""
    rng = torch.Generator().manual_seed(seed)
    draw = lambda shape: torch.randn(shape, generator=rng, dtype=torch.float64)  # noqa: E731
    tensors = {}
    for name, shape in LISTINGS[listing].items():
        last = name.rpartition(".")[2]
        if "var" in last:
            tensors[name] = draw(shape).abs() + 0.3
        elif last == "u0" or len(shape) < 2:
            tensors[name] = draw(shape) * (0.7 if last in ("gamma", "sigma") else 0.3)
        else:
            tensors[name] = draw(shape)
    for name in [name for name in tensors if name.endswith("weight_orig")]:
        u, matrix = draw(len(tensors[name])), tensors[name].flatten(1)
        for _ in range(3):
            v = F.normalize(matrix.T @ u, dim=0)
            u = F.normalize(matrix @ v, dim=0)
        tensors[name.replace("_orig", "_u")] = u
        tensors[name.replace("_orig", "_v")] = F.normalize(v + 0.01 * draw(len(v)), dim=0)
    counts = {name: torch.tensor(7) for name in tensors if name.endswith("num_batches_tracked")}
    counts |= {name: torch.zeros(1, dtype=dtype) for name in tensors if name.endswith("accumulation_counter")}
    return {name: tensor.to(dtype) for name, tensor in tensors.items()} | counts


def weight(s, name):
    """A weight as a forward pass uses it: divided by sigma from the stored u and v (PyTorch), or from one iteration (BigGAN-PyTorch)."""
    if f"{name}.weight_orig" in s:
        w = s[f"{name}.weight_orig"]
        return w / (s[f"{name}.weight_u"] @ w.flatten(1) @ s[f"{name}.weight_v"])
    w = s[f"{name}.weight"]
    if f"{name}.u0" in s:
        v = s[f"{name}.u0"][0] @ w.flatten(1)
        v = v / v.norm()
        w = w / (w.flatten(1) @ v).norm()
    return w


def conv(s, name, x):
    w = weight(s, name)
    return F.conv2d(x, w, s.get(f"{name}.bias"), padding=w.shape[-1] // 2)


def linear(s, name, x):
    return x @ weight(s, name).T + s[f"{name}.bias"]


def normalise(x, mean, var, gain, bias, eps):
    x = (x - mean[:, None, None]) / (var[:, None, None] + eps).sqrt()
    return x * gain[..., None, None] + bias[..., None, None]


def attend(x, query, key, value, output, gamma, maps):
    q, k, v = query(x).flatten(2), F.max_pool2d(key(x), 2).flatten(2), F.max_pool2d(value(x), 2).flatten(2)
    beta = torch.softmax(q.transpose(1, 2) @ k, 2)
    maps.append(beta)
    return x + gamma * output((v @ beta.transpose(1, 2)).unflatten(2, x.shape[2:]))


def enlarge(x):
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def halve(x):
    return F.avg_pool2d(x, 2)


def generator(s, z, y, style, maps):
    """Images; `style` has the names: see STYLES."""
    x = linear(s, style["linear"], z)
    x = x.view(len(z), -1, 4, 4)
    for block in blocks(s, style["block"]):
        if f"{block}.{style['gamma']}" in s:
            x = attention(s, block, x, style, maps)
            continue
        h = torch.relu(cbn(s, f"{block}.{style['norms'][0]}", x, y, style))
        h = conv(s, f"{block}.{style['convs'][0]}", enlarge(h))
        h = torch.relu(cbn(s, f"{block}.{style['norms'][1]}", h, y, style))
        x = conv(s, f"{block}.{style['convs'][1]}", h) + conv(s, f"{block}.{style['shortcut']}", enlarge(x))
    last = style["last norm"]
    mean, var, gain = (s[f"{last}.{part}"] for part in style["last parts"])
    return torch.tanh(conv(s, style["output"], torch.relu(normalise(x, mean, var, gain, s[f"{last}.bias"], style["eps"]))))


def discriminator(s, x, y, style, maps, inplace=False, halving=(True, True, False, False)):
    """Logits; `halving`: which blocks halve the map."""
    number = 0
    for block in [*style["first"], *blocks(s, style["block"])]:
        if f"{block}.{style['gamma']}" in s:
            x = attention(s, block, x, style, maps)
            continue
        pool = halve if halving[number] else lambda x: x
        h = x if number == 0 else torch.relu(x)
        x = h if inplace else x
        h = conv(s, f"{block}.{style['convs'][1]}", torch.relu(conv(s, f"{block}.{style['convs'][0]}", h)))
        learned = f"{block}.{style['shortcut']}.bias" in s
        x = pool(h) + pool(conv(s, f"{block}.{style['shortcut']}", x) if learned else x)
        number += 1
    h = torch.relu(x).sum((2, 3))
    return linear(s, style["logit"], h)[:, 0] + (weight(s, style["embedding"])[y] * h).sum(1)


def blocks(s, pattern):
    """The blocks in order: by their numbers, not as text."""
    found = {match[0] for name in s if (match := re.match(pattern, name))}
    return sorted(found, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def attention(s, block, x, style, maps):
    query, key, value, output = (lambda x, name=name: conv(s, f"{block}.{name}", x) for name in style["attention"])
    return attend(x, query, key, value, output, s[f"{block}.{style['gamma']}"], maps)


def cbn(s, norm, x, y, style):
    gain, bias = style["gains"](s, norm)
    mean, var = (s[f"{norm}.{style['statistics']}_{part}"] for part in ("mean", "var"))
    return normalise(x, mean, var, 1 + gain[y], bias[y], style["eps"])


STYLES = {
    "biggan-pytorch": {
        "linear": "linear", "block": r"blocks\.\d+\.\d+", "convs": ("conv1", "conv2"), "shortcut": "conv_sc", "norms": ("bn1", "bn2"),
        "gamma": "gamma", "attention": ("theta", "phi", "g", "o"), "statistics": "stored", "eps": 1e-5, "first": (), "logit": "linear",
        "gains": lambda s, norm: (weight(s, f"{norm}.gain"), weight(s, f"{norm}.bias")), "embedding": "embed",
        "last norm": "output_layer.0", "last parts": ("stored_mean", "stored_var", "gain"), "output": "output_layer.2",
    },
    "studiogan": {
        "linear": "linear0", "block": r"blocks\.\d+\.\d+", "convs": ("conv2d1", "conv2d2"), "shortcut": "conv2d0", "norms": ("bn1", "bn2"),
        "gamma": "sigma", "attention": ("conv1x1_theta", "conv1x1_phi", "conv1x1_g", "conv1x1_attn"), "statistics": "bn.running",
        "eps": 1e-4, "first": (), "logit": "linear1", "embedding": "embedding",
        "gains": lambda s, norm: (weight(s, f"{norm}.gain").T, weight(s, f"{norm}.bias").T),
        "last norm": "bn4", "last parts": ("running_mean", "running_var", "weight"), "output": "conv2d5",
    },
    "mmgeneration": {
        "linear": "noise2feat", "block": r"conv_blocks\.\d+", "convs": ("conv_1.conv", "conv_2.conv"), "shortcut": "shortcut.conv",
        "norms": ("norm_1", "norm_2"), "gamma": "gamma", "attention": ("theta.conv", "phi.conv", "g.conv", "o.conv"),
        "statistics": "norm.running", "eps": 1e-4, "first": ("from_rgb",), "logit": "decision", "embedding": "proj_y",
        "gains": lambda s, norm: (weight(s, f"{norm}.weight_embedding"), weight(s, f"{norm}.bias_embedding")),
        "last norm": "to_rgb.bn", "last parts": ("running_mean", "running_var", "weight"), "output": "to_rgb.conv",
    },
}  # fmt: skip
STYLES["biggan-pytorch shared"] = STYLES["biggan-pytorch"] | {
    "statistics": "bn.stored",
    "gains": lambda s, norm: tuple(s["shared.weight"] @ weight(s, f"{norm}.{part}").T for part in ("gain", "bias")),
    "last parts": ("bn.stored_mean", "bn.stored_var", "gain"),
}
STYLES["mmgeneration biggan"] = STYLES["mmgeneration"] | {"eps": 1e-5}
