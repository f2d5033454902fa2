import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from papermill.translators import PythonTranslator

from workbench import Config, ParameterError, WorkbenchError
from workbench.evaluation import Evaluation
from workbench.paths import find_run_folder
from workbench.presets import BUILT_IN_DATA, PRESETS
from workbench.runs.create import derived_name, require_startable
from workbench.training.memory import require_feasible
from workbench.views.ablation import Ablation
from workbench.views.attention import AttentionView
from workbench.views.compare import Comparison


def refused(parameters, error=ParameterError) -> str:
    """What is said of parameters that are refused."""
    with pytest.raises(error) as refusal:
        Config.from_parameters(parameters)
    text = str(refusal.value)
    assert "\n" not in text and text.isprintable() and len(text) < 800, text
    return text


@pytest.mark.parametrize("name", PRESETS)
def test_presets_hold_and_round_trip(name):
    config = Config.preset(name)
    assert config.preset == name
    assert Config.from_json(config.to_json()) == config
    assert dataclasses.replace(config, seed=3).seed == 3


def test_built_in_classes_are_those_of_the_data():
    from workbench.data import twins

    assert BUILT_IN_DATA["twins"]["num_classes"] == len(twins.CLASSES)


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("lr_d", "4e-4", 4e-4),
        ("steps", 1e3, 1000),
        ("steps", "20", 20),
        ("beta1", 0, 0.0),
        ("sn_g", "false", False),
        ("sn_g", 1, True),
        ("attention_g", 16, "16"),
        ("attention_g", "[16, 8]", "8,16"),
        ("attention_g", [32], "32"),
        ("attention_d", "none", "none"),
        ("num_classes", 0, 0),
        ("seed", 2**53 + 1, 2**53 + 1),
        ("note", 5, "5"),
        ("tags", ["a", "b"], "a,b"),
        ("tags", " a, b ,,", "a,b"),
        ("seed", "9007199254740993", 2**53 + 1),
        ("preset", " cifar10 ", "cifar10"),
        ("data", " cifar10 ", "cifar10"),
        ("attention_g", [], "none"),
        ("run", 7, "7"),
    ],
)
def test_values_are_coerced_by_declared_type(name, given, value):
    result = getattr(Config.from_parameters({name: given}), name)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        (dict(lrd=4e-4), "did you mean 'lr_d'"),
        (dict(data=""), "data='' is not twins, binding, binding-near, cifar10, imagenet or a folder"),
        (dict(data="  "), "or a folder"),
        (dict(data="a\0b"), "data='a\\x00b' is not"),
        (dict(data="\udcff"), "data='\\udcff' is not text"),
        (dict(data=["twins"]), "is not text"),
        (dict(note="x" * 10_001), "at most 10,000 characters"),
        (dict(tags="x" * 1001), "at most 1,000 characters"),
        (dict(attention_g="²"), "attention_g='²'"),
        (dict(attention_g="9" * 5000), "attention_g='999"),
        (dict(attention_g=[[16]]), "attention_g=[[16]] is not"),
        (dict(seed=2**63), "seed=9223372036854775808 is not a whole number"),
        (dict(preset=["twins32"]), "preset=['twins32'] is not text"),
        (dict(lr_d="fast"), "lr_d='fast' is not a number; allowed: above 0 and at most 1"),
        (dict(lr_d=math.nan), "lr_d=nan is not a number"),
        (dict(lr_d=-1), "lr_d=-1 is not in range"),
        (dict(steps=1.5), "steps=1.5 is not a whole number"),
        (dict(steps=True), "steps=True is not a whole number"),
        (dict(sn_g="perhaps"), "sn_g='perhaps' is not true or false"),
        (dict(image_size=48), "one of 32, 64, 128, 256"),
        (dict(pairs=2, data="cifar10"), "pairs=2 is for data='twins'"),
        (dict(pairs=4, image_size=32), "16 pixels or more for each"),
        (dict(augment="crop"), "one of none, flip, diffaug"),
        (dict(attention_g=64), "G has no feature map of size 64 at image_size=32; allowed: none, or a list from 8, 16, 32"),
        (dict(attention_d=32), "allowed: none, or a list from 4, 8, 16"),
        (dict(attention_g="big"), "attention_g='big'"),
        (dict(preset="twin32"), "did you mean 'twins32'"),
        (dict(batch_size=6, num_processes=4), "use a multiple of 4"),
        (dict(gradient_accumulation=2), "set batch_norm_group, a divisor of"),
        (dict(run="a/b"), "cannot name a folder"),
        (dict(resume="nothing"), "there is no run 'nothing'"),
        (dict(mixed_precision="fp16", device="cpu"), "needs a GPU"),
        (dict(note={"a": 1}), "is not text"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(parameters, says):
    with pytest.raises(ParameterError) as error:
        Config.from_parameters(parameters)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_long_paths_and_users_that_are_not_there_are_no_traces():
    assert Config.from_parameters(dict(data="x" * 400)).data.endswith("x" * 400)
    assert Config.from_parameters(dict(data="~nobody-of-this-name/x")).data.endswith("~nobody-of-this-name/x")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lr_D", "'lr_d'"), ("LR", "'lr_g' or 'lr_d'"), ("lr", "'lr_g' or 'lr_d'"), ("iterations", "'steps'"), ("Iters", "'steps'"), ("max_steps", "'steps'"),
        ("num_steps", "'steps'"), ("n_iter", "'steps'"), ("epochs", "'steps'"), ("batch", "'batch_size'"), ("bs", "'batch_size'"), ("batchSize", "'batch_size'"),
        ("gpus", "'num_processes'"), ("num_gpus", "'num_processes'"), ("nproc", "'num_processes'"), ("dataset", "'data'"), ("data-dir", "'data'"),
        ("root", "'data'"), ("resolution", "'image_size'"), ("size", "'image_size'"), ("imsize", "'image_size'"), ("ema", "'ema_decay'"),
        ("fp16", "'mixed_precision'"), ("amp", "'mixed_precision'"), ("latent_dim", "'z_dim'"), ("nz", "'z_dim'"), ("z", "'z_dim'"),
        ("classes", "'num_classes'"), ("name", "'run'"), ("out", "'run'"), ("ch", "'width'"), ("n_dis", "'d_steps'"), ("d_iters", "'d_steps'"), ("g_lr", "'lr_g'"),
        ("LR_G", "'lr_g'"), ("iteration_count", "'steps'"), ("Seed", "'seed'"), ("evaluate-every", "'evaluate_every'"), ("num_iterations", "'steps'"),
    ],
)  # fmt: skip
def test_what_others_call_a_parameter_is_understood(name, meant):
    assert refused({name: 1}) == f"unknown parameter {name!r}; did you mean {meant}?"


@pytest.mark.parametrize("name", [
    "optimizer", "crop_size", "loadSize", "dropout", "snap", "cond", "version", "weight_decay", "lr_decay", "num_workers", "workers", "eps",
])  # fmt: skip
def test_what_there_is_no_parameter_for_is_not_taken_for_another(name):
    assert "did you mean" not in refused({name: 1})


def test_synonyms_stand_for_parameters():
    names = {field.name for field in dataclasses.fields(Config)}
    meant = {}
    for word, parameters in [*((name, name) for name in names), *Config.synonyms.items()]:  # one word, one meaning, however it is written
        assert meant.setdefault(word.replace("_", ""), parameters) == parameters, word
    assert {name for meant in Config.synonyms.values() for name in meant.split()} <= names
    assert not names & set(Config.synonyms) and all(word == word.lower() for word in Config.synonyms)


def test_none_is_what_is_not_given():
    """One spelling, in Python and in config.json; "none" and empty text stand for it where a preset has another value."""
    config = Config.preset("twins32")
    assert [name for name, value in dataclasses.asdict(config).items() if value is None] == [
        "width_d", "d_downsamples", "d_flat_channels", "batch_norm_group", "patterns", "max_hours", "run", "resume", "note", "tags",
        "keep_checkpoints",
    ]  # fmt: skip
    assert not any(value == "" for value in dataclasses.asdict(config).values())
    cifar = Config.from_parameters(dict(preset="cifar10", width_d="none", keep_checkpoints="None ", lr_d="none", note="", run=""))
    assert (cifar.width_d, cifar.keep_checkpoints, cifar.note, cifar.run, cifar.lr_d) == (None, None, None, None, 8e-4)
    assert cifar.channels_d(16) == cifar.channels_g(16) == 256 and Config.from_json(cifar.to_json()) == cifar
    assert Config.preset("imagenet128", batch_norm_group=None).group_size == 256
    assert "width_d=0 is not in range; allowed: at least 1, or none" in refused(dict(width_d=0))


@pytest.mark.parametrize("name", ["", "?", 5, None, "x" * 10_000, "\n\0", "ß", "qqqq"])
def test_names_that_mean_nothing_are_refused(name):
    assert refused({name: 1}).startswith("unknown parameter ")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not valid JSON"), (b"\xff\xfe", "not valid JSON"), (b"\0" * 100, "not valid JSON"), ("[" * 10**5, "not valid JSON"), ("9" * 5000, "not valid JSON"),
        ("{}x" * 1000, "not valid JSON"), ("[]", "must be a JSON object"), ("5", "must be a JSON object"), ("null", "must be a JSON object"),
        ('{"width": 8, "width": 9}', "has 'width' twice"), ('{"widht": 8}', "did you mean 'width'?"), ('{"name": 8}', "did you mean 'run'?"),
        ('{"self": 8, "cls": 8}', "unknown parameter 'self'"), ('{"preset": "x"}', "preset='x' is not known"), ('{"preset": []}', "preset=[] is not text"),
        ('{"preset": null}', "preset=None is not text"), ('{"width": null}', "width=None is not a whole number"), ('{"width": [8]}', "width=[8] is not"),
        ('{"lr_d": NaN}', "lr_d=nan is not a number"), ('{"lr_d": 1e999}', "lr_d=inf is not a number"), ('{"note": {"a": 1}}', "note={'a': 1} is not text"),
        ('{"note": "\\ud800"}', "is not text"), (" " * 1_000_001, "larger than 1,000,000 bytes"), ('{"a\\nb": 1}', "unknown parameter 'a\\nb'"),
    ],
)  # fmt: skip
def test_json_that_is_no_configuration_is_refused_in_one_line(text, says):
    with pytest.raises(ParameterError) as error:
        Config.from_json(text)
    assert says in str(error.value) and str(error.value).isprintable() and len(str(error.value)) < 700


def test_json_may_be_bytes_and_is_read_once():
    config = Config.preset("twins32", note="猫\n", width=16)
    for text in (config.to_json(), config.to_json().encode(), "\ufeff" + config.to_json(), config.to_json().encode("utf-8-sig")):
        assert Config.from_json(text) == config
        assert Config.from_json(text) is Config.from_json(text)
    assert Config.from_json("{}") == Config.preset("twins32")


def test_none_means_the_value_of_the_preset():
    config = Config.from_parameters(dict(preset="imagenet128", lr_d=None, seed=5))
    assert config == Config.preset("imagenet128", seed=5)


def test_what_follows_from_the_data_is_no_difference():
    config = Config.preset("twins32", data="/some/where")
    assert (config.num_classes, config.evaluate_every, config.lr_d) == (None, 0, 8e-4)
    assert Config.preset("twins32").lr_d == 2.5e-3 and Config.preset("cifar10").lr_d == 2e-4
    assert derived_name(config) == "twins32-data=where"
    assert Config.preset("twins32").evaluate_every == 250


def test_channels_of_the_released_code():
    config = Config.preset("imagenet128")
    assert [config.channels_g(r) for r in (4, *config.maps_g)] == [1024, 1024, 512, 256, 128, 64]
    assert [config.channels_d(r) for r in config.maps_d] == [64, 128, 256, 512, 1024]
    cifar = Config.preset("cifar10")
    assert {cifar.channels_g(r) for r in cifar.maps_g} == {256}
    assert (cifar.maps_d, {cifar.channels_d(r) for r in cifar.maps_d}) == ((16, 8), {128})


def test_parameters_cell_explains_everything():
    lines = Config.cell().splitlines()
    for field in dataclasses.fields(Config):
        (line,) = [line for line in lines if line.startswith(f"{field.name}: {field.type.split(' ')[0]} = None  # ")]
        assert field.metadata["meaning"] in line and line.endswith(")")
    assert "steps: int = None  # G steps (1900)" in lines and "lr_d: float = None  # learning rate of D (0.0025)" in lines
    headings = [line for line in lines if line.startswith("# ")]
    assert headings[0].startswith("# Parameters: ") and headings[1:] == ["# Model", "# Data", "# Optimisation", "# Run", "# Logging"]
    assert [line.partition(":")[0] for line in lines[1 : lines.index("")]] == list(Config.first) and 10 <= len(Config.first) <= 14


@pytest.mark.parametrize("kind", [Config, Evaluation, AttentionView, Comparison, Ablation])
def test_comments_of_parameters_cells_are_short(kind):
    for line in kind.cell().splitlines():
        assert len(line.partition("# ")[2]) <= 100, line


def test_papermill_tells_of_every_parameter():
    """`papermill --help-notebook` leaves out a parameter whose line has another "=" than that of its value."""
    for kind in (Config, Evaluation, AttentionView, Comparison, Ablation):
        known = [p.name for p in PythonTranslator.inspect(dict(source=kind.cell()))]
        assert sorted(known) == sorted(field.name for field in dataclasses.fields(kind)), kind
        assert not any("=" in field.metadata[text] for field in dataclasses.fields(kind) for text in ("meaning", "none"))


# ------------------------------------------------------------------------------------------------- which run is meant


def test_resume_takes_names_and_explicit_paths(make, monkeypatch):
    folder = make("cats", 4, width=16)
    monkeypatch.chdir(folder)
    for text in ("cats", "../cats", str(folder), folder, "."):
        config = Config.from_parameters(dict(resume=text))
        assert (config.resume, config.width, config.run) == ("cats", 16, "cats")
    assert Config.from_parameters(dict(resume=f"{folder}@4")).resume == "cats@4"
    other = make("../elsewhere/dogs", 4)
    fork = Config.from_parameters(dict(resume="../../elsewhere/dogs@04", lr_d=1e-3))
    assert fork.resume == f"{other.resolve()}@4" and derived_name(fork) == "dogs-from4-lr_d=0.001"


def test_a_fork_has_a_name_a_note_and_tags_of_its_own(make):
    make("cats", 4, note="for the paper", tags="paper")
    fork = Config.from_parameters(dict(resume="cats@4"))
    assert (fork.run, fork.note, fork.tags) == (None, None, None)
    assert Config.from_parameters(dict(resume="cats@4", tags="mine")).tags == "mine"
    resumed = Config.from_parameters(dict(resume="cats"))
    assert (resumed.run, resumed.note, resumed.tags) == ("cats", "for the paper", "paper")


# ------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name",
    [
        "a@b",
        "a/b",
        "a\\b",
        "a,b",
        ".a",
        "..",
        "-a",
        "~a",
        " a",
        "a ",
        "a.",
        " ",
        "a\nb",
        "a\0",
        "\x1b[1m",
        "\x85",
        "\udcff",
        "\u2028",
        "x" * 201,
        "é" * 101,
    ],
)
def test_what_cannot_name_a_folder_is_refused(name):
    refused(dict(run=name))


@pytest.mark.parametrize("name", ["007", "my run", "a=b", "猫", "$HOME", "x" * 200, "None-1", "con", "a:b"])
def test_other_names_are_taken_as_they_are(name):
    assert Config.from_parameters(dict(run=name)).run == name


# ------------------------------------------------------------------------------------------------- anything at all

NAMES = [field.name for field in dataclasses.fields(Config)]
TEXTS = st.text(st.characters(exclude_categories=()), max_size=60)  # with NUL, controls and lone surrogates
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.integers(0, 500).map(lambda digits: 10**digits)
NUMERALS = st.from_regex(r"[ +-]?[0-9_.e\u00b2\u0661]{1,9}[ ]?", fullmatch=True) | st.sampled_from(
    ["inf", "nan", "1e999", "0x10", "\uff11\uff12", "9" * 400]
)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6)
GIVEN = st.dictionaries(st.sampled_from(NAMES) | TEXTS, VALUES | NUMERALS | st.binary(max_size=5), max_size=4)


def one_line(make):
    """What `make` returns, or None after an error in one short line."""
    try:
        return make()
    except WorkbenchError as error:
        text = str(error)
        assert text.isprintable() and len(text) < 800, text
        return None


@given(GIVEN)
def test_any_parameters_give_a_config_or_one_line(given):
    config = one_line(lambda: Config.from_parameters(given))
    if config:
        assert Config.from_json(config.to_json()) == config
        values = {name: value for name, value in json.loads(config.to_json()).items() if value is not None and name != "resume"}
        assert all(getattr(Config.from_parameters(values), name) == value for name, value in values.items())
        one_line(lambda: require_feasible(config))
        one_line(lambda: require_startable(config))
        name = derived_name(config)
        assert len(name.encode()) <= 150 and config.replace(run=name).run == name


@given(st.sampled_from(NAMES), VALUES | NUMERALS)
def test_any_value_gives_one_that_is_read_as_itself_or_one_line(name, value):
    read = one_line(lambda: Config.read(name, value))
    assert Config.read(name, read) == read if read is not None else True


@given(TEXTS | st.binary(max_size=60) | VALUES.map(json.dumps) | GIVEN.map(lambda given: json.dumps(given, default=str)))
def test_any_text_gives_a_config_or_one_line(text):
    one_line(lambda: Config.from_json(text))


@given(
    VALUES | st.sampled_from(["~", "/", ".", "./", "demo", "~root", "//demo"]).flatmap(lambda start: TEXTS.map(lambda rest: start + rest))
)
def test_any_text_names_a_run_or_none(text):
    folder = find_run_folder(text)
    assert folder is None or (folder / "config.json").exists()
    one_line(lambda: require_startable(Config.from_parameters(dict(resume=text))))
