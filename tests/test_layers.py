"""The layers of the package: imports, also those inside functions, go one way down."""

import ast
from pathlib import Path

import pytest

import workbench

PACKAGE = Path(workbench.__file__).parent

# The modules beside the packages, lowest first: each may import those before it, and every package all of them.
BASE = (
    "messages", "parameters", "readers", "presets", "synonyms", "files", "json_lines", "paths", "config", "records", "tensors", "notebook", "progress", "signals", "gpus", "processes",
    "forkserver", "machine", "templates",
)  # fmt: skip

# What else each package may import: packages, or modules of them.
LAYERS = {
    "model": (),
    "data": (),
    "attention": ("model",),
    "runs": ("model",),
    "foreign": ("model", "runs"),
    "training": ("model", "data", "runs", "attention.capture", "attention.snapshots"),
    "metrics": ("model", "data"),
    "evaluation": ("model", "data", "runs", "metrics"),
    "studies": ("model", "data", "runs", "attention", "training", "metrics", "evaluation"),
    "figures": ("metrics", "studies"),
    "views": ("model", "data", "attention", "runs", "training", "metrics", "evaluation", "studies", "figures"),
    "widgets": ("model", "data", "attention", "runs", "training", "metrics", "evaluation", "studies", "figures", "views"),
    "publishing": ("model", "runs", "metrics", "figures", "views", "widgets"),
}

# Modules that may import more, each with its reason.
EXCEPTIONS = {
    "training.__main__": ("evaluation",),  # a command line, which wires training and evaluation together
    "figures.images": ("attention.Inspection",),  # the result of an inspection: plain data
    "figures.painting": ("attention.Inspection", "attention.STATISTICS", "attention.NOISE", "attention.rounding"),
}
FREE = {"__main__", "bench", "cli"}  # command lines of the whole package


def imports(module: str, source: str) -> set[str]:
    """The modules and names of the package that a module's source imports, below the package: {"model", "config.Config"}."""
    parents = module.split(".")[:-1]
    targets = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            start = [PACKAGE.name, *parents[: len(parents) + 1 - node.level]] if node.level else []
            place = ".".join([*start, *([node.module] if node.module else [])])
            targets |= {f"{place}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
    return {target.removeprefix(f"{PACKAGE.name}.") for target in targets if target.startswith(f"{PACKAGE.name}.")}


def violations(module: str, source: str) -> list[str]:
    """The imports of a module that go against the table."""
    package, _, inside = module.partition(".")
    allowed = (package, *BASE, *LAYERS[package], *EXCEPTIONS.get(module, ())) if inside else BASE[: BASE.index(module)]
    return [
        f"{module} imports {target}"
        for target in sorted(imports(module, source))
        if not any(f"{target}.".startswith(f"{name}.") for name in allowed)
    ]


def modules() -> dict[str, str]:
    """Module -> source, of the whole package."""
    files = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    return {name: path.read_text() for name, path in files.items() if name.partition(".")[0] not in FREE | {"__init__", "demo"}}


def test_imports_go_one_way_down():
    assert [line for module, source in modules().items() for line in violations(module, source)] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("model.networks", "from ..runs import Run"),
        ("model.networks", "def forward():\n    from ..runs.folder import Run"),
        ("model.networks", "def forward():\n    import workbench.views.train as train"),
        ("model.__init__", "from .. import runs"),
        ("training.loop", "from ..attention import inspect_layer"),
        ("training.loop", "from ..evaluation import during_training"),
        ("figures.images", "from ..attention import intervene"),
        ("widgets.inspector.deep.module", "from ....bench import main"),
        ("files", "from .paths import DEMO"),
        ("config", "from .model import Generator"),
    ],
)
def test_what_goes_up_is_caught(module, source):
    assert len(violations(module, source)) == 1


def test_what_goes_down_is_not():
    assert (
        violations("training.loop", "from ..model import sampling\nfrom ..attention.capture import capture\nfrom .steps import d_step")
        == []
    )
    assert violations("config", "import json\nfrom .files import open_regular\nfrom workbench.messages import short_repr") == []
