"""The folder of a published run: one checkpoint and its records, without what only a training needs, and without paths of this machine."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from pathlib import Path

from PIL import Image

from ..config import Config
from ..files import new_folder, remove_abandoned, storing
from ..messages import ParameterError, WorkbenchError, say_once
from ..model import sampling
from ..presets import BUILT_IN_DATA
from ..runs import Run
from ..tensors import first_not_finite, seal, verify
from ..views.attention import AttentionView
from ..views.inspected_run import InspectedRun
from ..widgets.inspector.living import export_page
from .card import SAMPLES, card
from .hub import require_hub, upload

COLUMNS = 10  # of the sample grid, which has a row for each of at most 10 classes


def publish(run: Run | str, folder: str | os.PathLike, hub: str = "", *, license: str = "unknown") -> Path:
    """Write a run into a folder for others: weights, settings, scores with their protocols, provenance, a model card, and a living page.

    `Run(folder)` opens it: with the same images, bit for bit. Paths lose their folders, and the machine its name.

    Parameters
    ----------
    run
        A run, its name, "run@step" or path. One checkpoint is published, by default the newest: the EMA of G (raw weights without one) and D.
    folder
        New, or empty.
    hub
        "user/name": also upload the folder to that model repository of the Hugging Face Hub, which is made if it does not exist. Needs
        `pip install 'sagan-workbench[hub]'` and a login (`hf auth login`).
    license
        Of the weights, as the Hub names licenses: "apache-2.0", "cc-by-4.0", ...

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    WorkbenchError, ParameterError
        If the folder is not empty, the checkpoint cannot be read, or the upload fails; after that, the folder is complete.
    """
    inspected, folder = InspectedRun.of(run), Path(os.path.abspath(os.path.expanduser(folder)))
    if hub:
        require_hub(hub)
    if not re.fullmatch(r"[\w.-]+", license):
        raise ParameterError(f"license={license!r} is no identifier of a license; give one such as apache-2.0, cc-by-4.0 or unknown")
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise ParameterError(f"folder={str(folder)!r} exists and is not empty; give a new one")
    remove_abandoned(folder.parent, folder.name)
    step = inspected.run.checkpoint_step(inspected.start)
    with new_folder(folder) as part:
        _write(inspected, step, part, folder.name, hub, license)
    if hub:
        upload(folder, hub)
    return folder


def _write(inspected: InspectedRun, step: int, folder: Path, place: str, hub: str, license: str) -> None:
    """Write all files into `folder`, which will be called `place`."""
    run, weights = inspected.run, inspected.require_weights()[0]
    config = _portable_config(run.config)
    provenance = portable(run.provenance)
    provenance.get("machine", {}).pop("host", None)
    evaluations, history = portable(run.evaluations()), run.history()
    status = dict(
        state="stopped" if step < config["steps"] else "finished", message=f"published at step {step}", step=step, steps=config["steps"]
    )
    generator = run.generator(step, weights)
    if bad := first_not_finite(generator.state_dict()):
        raise WorkbenchError(f"run {run.name!r}, step {step}: {bad} of G is not finite; publish another checkpoint: {run.name}@STEP")
    _copy_checkpoint(run.checkpoint_path(step), folder / "checkpoints" / str(step), weights)
    page = ""
    try:
        export_page(run, folder / "live.html", view=AttentionView(step=step))
    except WorkbenchError as error:
        page = f"no living page: {error}"
        say_once(page)
    with storing(folder):
        (folder / "samples").mkdir()
        (folder / SAMPLES.format(step=step)).write_bytes(_sample_grid(generator, run.config))
        for name, record in (("config", config), ("provenance", provenance), ("status", status)):
            (folder / f"{name}.json").write_text(json.dumps(record, indent=2), encoding="utf-8")
        for name, records in (("evaluations", evaluations), ("history", history)):
            (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
        text = card(run, step, weights, evaluations, provenance, place=place, hub=hub, license=license, live=not page)
        (folder / "README.md").write_text(text, encoding="utf-8")


def _copy_checkpoint(source: Path, target: Path, weights: str) -> None:
    """Copy the weights of a checkpoint as they are, without optimisers."""
    names = {f"{'ema' if weights == 'ema' else 'generator'}.safetensors", "discriminator.safetensors"}
    with storing(target):
        target.mkdir(parents=True)
        for name in names & verify(source).keys():
            shutil.copyfile(source / name, target / name)
    seal(target)


def _sample_grid(generator, config: Config) -> bytes:
    """A PNG: a row for each class, the same latents in every row."""
    x = sampling.images(generator, *sampling.grid(config.num_classes, config.z_dim, config.seed, COLUMNS))
    png = io.BytesIO()
    Image.fromarray(sampling.tile(x, COLUMNS).permute(1, 2, 0).numpy()).save(png, "PNG")
    return png.getvalue()


def _portable_config(config: Config) -> dict:
    """The settings: of a data folder its name, and of a fork nothing of the parent's place, which is in the provenance."""
    values = portable(json.loads(config.to_json())) | dict(resume=None)
    if values["data"] in BUILT_IN_DATA and config.data not in BUILT_IN_DATA:
        values["data"] = f"./{values['data']}"
    return values


def portable(value):
    """A JSON value with the names of files and folders in place of absolute paths."""
    if isinstance(value, dict):
        return {key: portable(part) for key, part in value.items()}
    if isinstance(value, list):
        return [portable(part) for part in value]
    if isinstance(value, str) and value.startswith(("/", "~/")):
        return Path(value).name
    return re.sub(r"(?<![\w.:/~-])~?/(?:[^/\s\"']+/)*(?=[^/\s\"'])", "", value) if isinstance(value, str) else value
