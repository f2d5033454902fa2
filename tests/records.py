"""Runs with a history and scores, made without training; folders of images; and a check of tables in LaTeX."""

import re
from dataclasses import asdict

import numpy as np
from PIL import Image

from workbench import evaluate
from workbench.metrics.protocols import protocol
from workbench.runs import create_run


def recorded(tiny, name, losses, **settings):
    """A run whose history has these losses of D at steps 1, 2, ..."""
    run = create_run(tiny(run=name, **settings))
    for step, loss in enumerate(losses, 1):
        run.append("history.jsonl", dict(step=step, images=8 * step, seconds=90.0 * step, loss_d=loss, lr_d=1e-3))
    return run


def scored(run, step, settings=None, data="imagenet", **scores):
    """Append an evaluation, by default of the protocol "official"; the record."""
    settings = settings or protocol("official")
    record = dict(
        step=step, scores=scores, errors={"kid": 0.01} if "kid" in scores else {}, per_class={}, protocol=f"{settings}; inception@6726825d",
        settings=asdict(settings), n=settings.n,
        extractor=dict(name="inception", sha256="6726825d", reference=True),
        reference=dict(data=data, fingerprint="f", size=128, n=50_000),
    )  # fmt: skip
    run.append("evaluations.jsonl", record)
    return record


def parsed(tex):
    """The cells of a LaTeX table in booktabs style, after checks that it would compile: environments and braces are balanced, no special
    character is left alone, and every row has as many cells as the table has columns."""
    assert re.findall(r"\\(begin|end)\{(\w+)\}", tex) == [("begin", "table"), ("begin", "tabular"), ("end", "tabular"), ("end", "table")]
    plain = re.sub(r"\\[&%$#_{}\\]", "", tex)  # without escaped characters and ends of rows
    depth = 0
    for character in plain:
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    assert depth == 0 and plain.count("$") % 2 == 0 and not set("%#~") & set(plain) and tex.isascii()
    outside = re.sub(r"\$[^$]*\$|\\label\{[^}]*\}", "", plain)
    assert not set("_^") & set(outside)
    (align,) = re.findall(r"\\begin\{tabular\}\{(\w+)\}", tex)
    places = [tex.index(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")]
    assert places == sorted(places) and r"\hline" not in tex and "|" not in tex
    rows = [line.strip() for line in tex[places[0] : places[2]].splitlines() if line.endswith(r" \\")]
    cells = [re.split(r"(?<!\\)&", row.removesuffix(r"\\")) for row in rows]
    assert all(len(row) == len(align) for row in cells)
    return align, [[cell.strip() for cell in row] for row in cells]


def image_folder(path, count, seed, classes=("cat", "dog"), size=32):
    """A folder with `count` images of noise for each class; its path as text."""
    source = np.random.default_rng(seed)
    for label in classes:
        (path / label).mkdir(parents=True)
        for k in range(count):
            Image.fromarray(source.integers(0, 255, (size, size, 3), dtype=np.uint8)).save(path / label / f"{k}.png")
    return str(path)


def of_folders(a, b, **options):
    """The record of folder `a` scored against folder `b`."""
    (record,) = evaluate(samples=str(a), data=str(b), **dict(extractor="twins", scores="fd") | options)
    return record
