"""The command `workbench`, also as `python -m workbench`: run notebooks without a browser, and look at runs and parameters.

Subcommands import what they need, so that those that only read files start at once.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from .messages import WorkbenchError, command

# Notebooks that run without a browser, and what they do.
NOTEBOOKS = dict(
    train="train a SAGAN, with progress, samples and curves", evaluate="score checkpoints: FID, IS, KID and more",
    attention="draw where the attention of a run looks", compare="compare runs: settings, curves, samples, scores",
    ablation="re-run the experiments of the paper and test its claims",
)  # fmt: skip


@command
def main(words: list[str] | None = None) -> int | None:
    """Parse a command line (by default that of this process) and do what it says."""
    parser, words = _parser(), sys.argv[1:] if words is None else words
    _require_two_words(word for before, word in pairwise(words) if before == "-p")
    arguments, rest = parser.parse_known_args(words)
    if rest and arguments.do is not _lab:
        _require_two_words(rest)
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.rest = rest
    return arguments.do(arguments)


def _require_two_words(words: Iterable[str]) -> None:
    """Refuse NAME=VALUE, which is how other programs take parameters."""
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name.isidentifier():
            raise WorkbenchError(f"{word!r}: a parameter is typed as -p NAME VALUE, here: -p {name} {shlex.quote(value)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="workbench", description="A research workbench for SAGAN.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, do, about: str, **options) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".", **options)
        sub.set_defaults(do=do)
        return sub

    for name, about in NOTEBOOKS.items():
        sub = add(name, _run_notebook, f"{about} (runs {name}.ipynb)", epilog=f"All parameters: workbench parameters {name}")
        sub.set_defaults(notebook=name)
        sub.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter, such as -p steps 500")
        if name == "attention":
            sub.add_argument(
                "line", nargs="*", metavar="LINE", help="a view as the inspector copies it: demo@4000 G/attention.32 pins=5,11"
            )
        sub.add_argument("--out", type=Path, metavar="FILE", help="the executed notebook [in the folder of the run, or of the export]")
    parameters = add("parameters", _parameters, "all parameters of a notebook, with meaning, allowed values and [default]")
    parameters.add_argument("notebook", nargs="?", default="train", choices=list(NOTEBOOKS), help="[train]")
    parameters.add_argument("--preset", metavar="NAME", help="values of this preset as defaults (train)")
    plan = add(
        "plan",
        _plan,
        "parameters, memory and time of a training, measured by a few steps of it",
        epilog="All parameters: workbench parameters",
    )
    plan.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter, such as -p preset cifar10")
    add("runs", _runs, "all runs, with their states")
    add("show", lambda arguments: _tell(arguments.run), "wait while a run trains, then print its state").add_argument("run")
    film = add("film", _film, "a film of a training: samples, attention maps and curves, as MP4, GIF or page")
    film.add_argument("run", metavar="RUN")
    film.add_argument(
        "--out", type=Path, metavar="FILE", help="a name that ends in .mp4, .gif or .html [views/film.mp4 in the folder of the run]"
    )
    film.add_argument("--seconds", type=float, default=10.0, help="duration [10]")
    film.add_argument("--network", default="G", help="whose attention: G or D [G]")
    film.add_argument("--layer", type=int, metavar="SIZE", help="feature-map size of the attention layer [the largest]")
    film.add_argument("--sample", type=int, default=0, metavar="K", help="latent whose maps are shown, by its number in the snapshots [0]")
    film.add_argument("--queries", default="auto", metavar="POSITIONS", help='"row,column; row,column" [auto: salient ones]')
    lab = add("lab", _lab, "open JupyterLab with copies of the notebooks, the tour first", epilog="Other options go to jupyter lab.")
    lab.add_argument("folder", nargs="?", type=Path, help="of the copies [notebooks in the folder of the runs]")
    add("notebooks", _notebooks, "copy the notebooks into a folder").add_argument("folder", type=Path)
    opened = add("open", _open, "make a run of a SAGAN from another code base: BigGAN-PyTorch, mmgeneration, PyTorch-StudioGAN")
    opened.add_argument("files", nargs="+", metavar="FILE", help="of G, its EMA (with 'ema' in the name) and D, or one that holds them")
    opened.add_argument("--layout", default="auto", help="biggan-pytorch, mmgeneration or studiogan [by the names of the tensors]")
    opened.add_argument("--name", help="of the run [that of the file]")
    opened.add_argument("--channel-order", default="auto", help="rgb or bgr: how the networks order colours [as the file tells]")
    opened.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter, such as -p data FOLDER")
    prepare = add("prepare", _prepare, "decode a data set once, into a folder for data=OUT, here or on another machine")
    prepare.add_argument(
        "source",
        metavar="SOURCE",
        help="folder of images, SOURCE/<class>/* or SOURCE/train/<class>/*; cifar10; imagenet; hf:<name or path>",
    )
    prepare.add_argument("out", metavar="OUT", help="folder to make; it must be empty or not exist yet")
    prepare.add_argument("--size", type=int, required=True, help="height and width of the images, the image_size of the run")
    prepare.add_argument("--skip-unreadable", action="store_true", help="leave unreadable files out instead of refusing")
    prepare.add_argument(
        "--processes", type=int, default=1, metavar="N", help="that decode: for millions of tiny images, or many cores [1]"
    )
    prepare.add_argument("--unconditional", action="store_true", help="take all images below SOURCE, without classes")
    page = add("page", _page, "write a page of a run that needs no Python: where its networks look, in a browser")
    page.add_argument("run", metavar="RUN", help="name of a run, RUN@STEP, or a path")
    page.add_argument("--live", action="store_true", help="the generator itself runs in the browser, for any seed")
    page.add_argument(
        "--out", type=Path, metavar="FILE", help="the page [in the folder of the run: views/live.html or views/attention.html]"
    )
    publish = add("publish", _publish, "write a run into a folder for others, with a model card, and upload it")
    publish.add_argument("run", metavar="RUN", help="name of a run, RUN@STEP, or a path")
    publish.add_argument("folder", type=Path, metavar="FOLDER", help="folder to make; it must be empty or not exist yet")
    publish.add_argument("--hub", default="", metavar="USER/NAME", help="also upload it to this repository of the Hugging Face Hub")
    publish.add_argument("--license", default="unknown", help="of the weights, such as apache-2.0 [unknown]")
    cells = add("cells", _cells, "rewrite the parameters cells of the notebooks, from the package's dataclasses")
    cells.add_argument("folder", nargs="?", type=Path, default=Path("notebooks"))
    return parser


def parameters_of(notebook: str):
    """The class of a notebook's parameters."""
    if notebook == "train":
        from .config import Config

        return Config
    import workbench  # its names are imported at their first use, with plotting libraries

    names = dict(evaluate="Evaluation", attention="AttentionView", compare="Comparison", ablation="Ablation")
    return getattr(workbench, names[notebook])


# --------------------------------------------------------------------------------------------------- notebooks


def _run_notebook(arguments: argparse.Namespace) -> int:
    if arguments.notebook == "train":
        return _train(arguments)
    from .templates import execute

    given = dict(arguments.p)
    if getattr(arguments, "line", None):
        given["line"] = " ".join(arguments.line)
    out, resolved = _destination(arguments.notebook, given)
    out = arguments.out or out
    code = execute(arguments.notebook, (given | resolved).items(), out)
    print(f"notebook: {out}")
    return code


def _destination(notebook: str, given: dict[str, str]) -> tuple[Path, dict[str, str]]:
    """Where the executed notebook goes, and the run as a parameter, so that the notebook takes the same one as this process."""
    from .paths import folder_name, outputs_dir

    parameters = parameters_of(notebook).from_parameters(given)
    if notebook == "compare":
        parameters.readable_runs()  # raises
    if notebook in ("compare", "ablation"):
        return parameters.folder / f"{notebook}.ipynb", {}
    if notebook == "attention":
        run = parameters.runs()[0].run
        if parameters.line:
            from .widgets import AttentionInspector

            AttentionInspector(view=parameters)  # raises if it does not fit
    elif parameters.samples:
        return outputs_dir() / "evaluations" / folder_name(parameters.samples) / "evaluate.ipynb", {}
    else:
        from .evaluation.checkpoints import run_to_evaluate

        run = run_to_evaluate(parameters)
    return run.home / f"{notebook}.ipynb", {} if given.get("run") or given.get("line") else dict(run=run.reference)


def _train(arguments: argparse.Namespace) -> int:
    """Reserve the run's name, so that the executed notebook goes into its folder; tell at the end how it stands, and how to go on."""
    from .config import Config
    from .paths import outputs_dir
    from .runs import release, reserve
    from .templates import execute

    config = Config.from_parameters(dict(arguments.p))
    name = reserve(config)
    folder = outputs_dir() / name
    parameters = [(key, value) for key, value in arguments.p if key != "run"]
    try:
        code = execute("train", [*parameters, ("run", name)], arguments.out or folder / "train.ipynb")
    finally:
        begun = (folder / "config.json").exists()
        if not begun:
            release(name)
    if begun:
        _tell(name)
    elif code > 128:
        print("interrupted before the run began; nothing is left of it")
    return code


def _tell(name: str) -> None:
    """Wait while a run trains, then print its state and folder."""
    from .runs import Run

    run = Run(name)
    while run.active:
        time.sleep(0.2)
    status = run.status()
    print(f"{status['state']}: {status['message']}\n{run.path}")


def _notebooks(arguments: argparse.Namespace) -> None:
    from .templates import copy_templates

    print("\n".join(copy_templates(arguments.folder)))


def _lab(arguments: argparse.Namespace) -> None:
    from .paths import outputs_dir
    from .templates import copy_templates

    folder = (arguments.folder or outputs_dir() / "notebooks").resolve()
    for line in copy_templates(folder):
        if not line.endswith("as the template"):
            print(line, flush=True)
    jupyter = shutil.which("jupyter", path=str(Path(sys.executable).parent)) or shutil.which("jupyter")
    if jupyter is None:
        raise WorkbenchError("JupyterLab is not installed in this environment: pip install jupyterlab")
    words = [jupyter, "lab", f"--notebook-dir={folder.parent}", f"--LabApp.default_url=/lab/tree/{folder.name}/tour.ipynb"]
    words += ["--allow-root"] if os.geteuid() == 0 else []
    os.execv(jupyter, words + arguments.rest)  # this process becomes JupyterLab, which handles Ctrl-C itself


# -------------------------------------------------------------------------------------------- runs and parameters


def _parameters(arguments: argparse.Namespace) -> None:
    kind = parameters_of(arguments.notebook)
    if arguments.preset and arguments.notebook != "train":
        raise WorkbenchError(f"--preset={arguments.preset} goes with the parameters of train, not of {arguments.notebook}")
    print(kind.explain_all(kind.preset(arguments.preset)) if arguments.preset else kind.explain_all())


def _plan(arguments: argparse.Namespace) -> None:
    from .config import Config
    from .training.plan import plan

    print(plan(Config.from_parameters(dict(arguments.p))))


def _runs(arguments: argparse.Namespace) -> None:
    from .paths import outputs_dir
    from .runs import list_runs

    runs = list_runs()
    if not runs:
        print(f"there are no runs in {outputs_dir()} yet; workbench train makes one", file=sys.stderr)
    for run in runs:
        status = run.status()
        error = f"  {status['message']}" if status["state"] == "unreadable" else ""
        print(f"{status['state']:<10} {status['step']:>8}/{status['steps']:<8} {run.name}{error}")


def _film(arguments: argparse.Namespace) -> None:
    from .runs import Run
    from .widgets.film import film

    run = Run(arguments.run)
    view = film(run, arguments.network, arguments.layer, arguments.sample, arguments.queries)
    print(view.save(arguments.out or run.views / "film.mp4", arguments.seconds))


def _prepare(arguments: argparse.Namespace) -> None:
    from .data import DataError
    from .data.datasets import describe, prepare

    options = dict(skip_unreadable=arguments.skip_unreadable, unconditional=arguments.unconditional, processes=arguments.processes)
    try:
        print(describe(prepare(arguments.source, arguments.out, arguments.size, **options)))
    except DataError as error:
        raise error.renamed(data="SOURCE", skip_unreadable="--skip-unreadable", num_classes="--unconditional") from None


def _page(arguments: argparse.Namespace) -> None:
    from .widgets.inspector.living import export_page

    print(f"written: {export_page(arguments.run, arguments.out, live=arguments.live)}")


def _publish(arguments: argparse.Namespace) -> None:
    from .publishing import publish

    folder = publish(arguments.run, arguments.folder, arguments.hub, license=arguments.license)
    print(f"written: {folder}" + (f"\nuploaded: {arguments.hub}" if arguments.hub else ""))


def _open(arguments: argparse.Namespace) -> None:
    from .foreign import open_checkpoint

    run = open_checkpoint(
        arguments.files, arguments.layout, name=arguments.name, channel_order=arguments.channel_order, **dict(arguments.p)
    )
    step = run.checkpoint_step()
    print(f"{run.status()['message']}\n{run.path}\nlook at it: workbench attention -p run {run.reference}")
    print(f"train on: workbench train -p resume {run.reference}@{step} -p steps {step + 1000}")


def _cells(arguments: argparse.Namespace) -> None:
    from .notebook import write_parameters_cell

    for name in NOTEBOOKS:
        write_parameters_cell(arguments.folder / f"{name}.ipynb", parameters_of(name).cell())
