"""The model card of a published run: Markdown with the front matter that the Hugging Face Hub reads."""

from __future__ import annotations

import html
import json
from pathlib import Path

from ..config import Config
from ..figures.tables import Measured, text
from ..messages import counted
from ..metrics.scores import higher_is_better
from ..runs import Run

SAMPLES = "samples/{step}.png"
TAGS = ["gan", "sagan", "self-attention", "image-generation", "pytorch"]

CARD = """---
license: {license}
library_name: sagan-workbench
pipeline_tag: unconditional-image-generation
tags: {tags}
---

# {name}

{about}

![Samples: {samples}]({picture})

{page}
## Open it

With the SAGAN workbench, whose run this is:

```python
{code}
generator = run.generator(weights="{weights}")
z, y = sampling.latents(8, generator.z_dim, seed=1), sampling.labels(8, generator.num_classes)
images = sampling.images(generator, z, y)  # (8, 3, {size}, {size}) in [-1, 1]
```

`workbench.AttentionInspector(run)` shows where its layers look. Weights are safetensors, with their SHA-256 beside them.

## Scores

{scores}

## Training

{training}
"""


def card(
    run: Run, step: int, weights: str, evaluations: list[dict], provenance: dict, *, place: str, hub: str, license: str, live: bool
) -> str:
    """The text of README.md.

    Parameters
    ----------
    evaluations, provenance
        As they are published.
    place
        Name of the folder.
    hub
        "user/name" of the repository, if it is uploaded.
    live
        Whether the folder has a living page.
    """
    config = run.config
    classes, size, data = config.num_classes or 0, config.image_size, plain(Path(config.data).name)
    kind = f"class-conditional ({counted(classes, 'class')})" if classes else "unconditional"
    block = f"self-attention ({config.attention_variant})" if config.attention_block == "attention" else "residual blocks in its place"
    about = (
        f"A {kind} SAGAN of {size}x{size} images, trained on {data} for {counted(step, 'step')}; {block} in G at {config.attention_g}, in D at "
        f"{config.attention_d}."
    )
    rows = "a row for each class, the same latents in every row" if classes else "one latent each"
    page = "[live.html](live.html) runs the generator in a browser: save the file, and open it.\n" if live else ""
    opened = f"run = Run(snapshot_download({hub!r}))" if hub else f"run = Run({f'./{place}'!r})  # the folder of this file"
    code = "from huggingface_hub import snapshot_download\n" * bool(hub) + f"from workbench import Run, sampling\n\n{opened}"
    return CARD.format(
        license=license, tags=json.dumps([*TAGS, "conditional-image-generation"] if classes else TAGS), name=plain(run.name), about=about,
        samples=f"{'EMA' if weights == 'ema' else 'raw weights'}, {rows}", picture=SAMPLES.format(step=step), page=page,
        code=code, weights=weights, size=size,
        scores=_scores([record for record in evaluations if record["step"] == step], step), training=_training(config, provenance),
    )  # fmt: skip


def _scores(records: list[dict], step: int) -> str:
    """A table for each protocol, of its newest evaluation."""
    newest = {record["protocol"]: record for record in records}
    tables = []
    for protocol, record in newest.items():
        errors, real = record.get("errors", {}), record.get("reference")
        against = f"Real images: {real['n']:,} of {real['data']} at {real['size']}x{real['size']}." if real else ""
        lines = [f"Protocol: {plain(protocol)}. {plain(against)}".rstrip(), "", "| score | value | better |", "|---|---|---|"]
        for name, value in record["scores"].items():
            better = {True: "higher", False: "lower", None: ""}[higher_is_better(name)]
            lines.append(f"| {plain(name)} | {text(Measured(value, errors.get(name)))} | {better} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables) or f"None were computed at step {step:,}."


def _training(config: Config, provenance: dict) -> str:
    """The settings that differ from the preset, and where the run comes from."""
    changes = config.changes(Config.preset(config.preset))
    changes["data"] = Path(config.data).name
    settings = ", ".join(f"`{name}={value}`" for name, value in changes.items() if name != "data" or config.data != "twins")
    git, machine, data = (provenance.get(name) or {} for name in ("git", "machine", "data"))
    versions = ", ".join(f"{name} {value}" for name, value in (provenance.get("versions") or {}).items() if value)
    parent = provenance.get("parent")
    gpus = machine.get("gpus") or []
    where = f"{len(gpus)} x {gpus[0]}" if gpus else machine.get("processor")
    lines = {
        "preset": f"`{config.preset}`" + (f", with {settings}" if settings else ""),
        "data": f"{Path(config.data).name}, fingerprint {data.get('fingerprint', 'not recorded')}",
        "classes": ", ".join(data.get("classes") or []) if config.num_classes else "",
        "parent": f"{parent['run']} at step {parent['step']}" if parent else "",
        "commit": f"{git['commit']}{' with changes' if git.get('dirty') else ''}" if git.get("commit") else "",
        "machine": where or "",
        "versions": versions,
    }
    shown = [f"| {name} | {plain(value)} |" for name, value in lines.items() if value]
    return "\n".join(["| | |", "|---|---|", *shown, "", "All settings: `config.json`; command, versions and machine: `provenance.json`."])


def plain(words: str) -> str:
    """Text in one line that Markdown shows as it is, also in a table."""
    return html.escape(" ".join(words.split()), quote=False).replace("|", "\\|")
