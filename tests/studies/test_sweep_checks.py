"""What a sweep refuses before its first training: arms that are one training, results that would not compare, work that nobody can do."""

import itertools

import pytest

from workbench import Ablation, Config, ParameterError
from workbench.metrics.scores import InceptionScore, higher_is_better
from workbench.studies.paper import ALL, EXPERIMENTS
from workbench.studies.sweep_checks import MOST_RUNS, known_scores, what_is_trained


def refused(*says, **given):
    """The message with which an ablation is refused: one line, which says all of these."""
    with pytest.raises(ParameterError) as error:
        Ablation.from_parameters(given)
    message = str(error.value)
    assert "\n" not in message and len(message) < 1500
    assert all(word in message for word in says), message


# ------------------------------------------------------------------------------------------------------------- grids


@pytest.mark.parametrize("grid", [
    "lr_d=1e-4|0.0001", "lr_d=1e-4|1e-4", "width=16|16", "width=16|16.0", "width=16| 16", "sn_g=true|yes", "attention_g=16|[16]",
    "attention_g=16,32|32,16", "beta1=0|0.0", "lr_d=1e-4|2e-4; width=16|24|16", "num_classes=6|6.0",
    # other values, the same networks and steps
    "width_d=none|16", "width_d=16|none; lr_g=1e-3|1e-4", "max_multiplier=8|16", "d_downsamples=none|3", "batch_norm_group=none|24", "ema_start=1900|3000",
])  # fmt: skip
def test_values_that_give_one_training_twice_are_refused(grid):
    refused(f"grid={grid!r}", "compared with", grid.partition("=")[0] if ";" not in grid else "=", experiments="sweep", grid=grid)


@pytest.mark.parametrize(("grid", "settings"), [
    ("attention_variant=official|paper", "attention_g=none; attention_d=none"),
    ("attention_block=attention|residual", "attention_g=none; attention_d=none"),
    ("ema_start=0|10", "ema_decay=0"), ("ema_decay=0.9|0.99", "ema_start=1900"), ("mixed_precision=auto|no", "dtype=float64"),
])  # fmt: skip
def test_values_that_say_nothing_beside_the_settings_are_refused(grid, settings):
    refused(f"grid={grid!r}", experiments="sweep", grid=grid, settings=settings)


@pytest.mark.parametrize("name", [
    "seed", "run", "note", "tags", "resume", "preset", "num_processes", "device", "log_every", "sample_every", "checkpoint_every",
    "keep_checkpoints", "evaluate_every", "evaluate_n", "evaluate_extractor", "gradient_accumulation", "skip_unreadable",
])  # fmt: skip
def test_parameters_that_define_no_training_are_no_arms(name):
    refused(f"grid='{name}=1|2'", f"{name} cannot be", experiments="sweep", grid=f"{name}=1|2")


@pytest.mark.parametrize("grid", ["data=twins|cifar10", "image_size=32|64", "pairs=1|2", "ema_decay=0|0.99"])
def test_arms_whose_scores_would_not_compare_are_refused(grid):
    refused(f"grid={grid!r}", "cannot be compared", experiments="sweep", grid=grid)


def test_arms_of_different_lengths_are_refused():
    refused("steps cannot be varied", experiments="sweep", grid="steps=10|20")
    refused("mixed_precision=auto", experiments="sweep", grid="mixed_precision=auto|no")


@pytest.mark.parametrize(("grid", "says"), [
    (";;", "'' is not parameter=value"), ("lr_d=1e-4|1e-3;;width=16|24", "'' is not parameter=value"), ("=1|2", "is not parameter=value"),
    ("lr_d", "'lr_d' is not parameter=value"), ("lr_d=|1e-3", "a value of lr_d is empty"), ("lr_d=", "a value of lr_d is empty"),
    ("lr_d=1e-3||1e-4", "a value of lr_d is empty"), ("lr_d=1e-3|1e-4; lr_d=1e-2|1e-5", "lr_d is assigned twice"),
    ("widht=8|16", "unknown parameter 'widht'; did you mean 'width'"), ("width=a|b", "width='a' is not a whole number"),
    ("attention_g=16|5", "no feature map of size 5"),
])  # fmt: skip
def test_grids_that_cannot_be_read(grid, says):
    refused(f"grid={grid!r}: ", says, experiments="sweep", grid=grid)


def test_a_grid_without_its_experiment_and_the_other_way_round():
    refused("grid='lr_d=1e-4|1e-3'", "experiments='sweep'", grid="lr_d=1e-4|1e-3")
    refused("needs grid", experiments="sweep", grid=" ")


@pytest.mark.parametrize(("grid", "label"), [
    ("width=8|1000000", "width=1000000"), ("z_dim=32|1000000000; lr_d=1e-3|1e-4", "lr_d=0.001, z_dim=1000000000"), ("batch_size=32|1e9", "batch_size=1e9"),
])  # fmt: skip
def test_arms_that_no_machine_can_hold_are_refused(grid, label):
    given = dict(experiments="sweep", grid=grid)
    refused(f"grid={grid!r}: the arm ", label.partition(", ")[2] or label, "this training needs about", "lower", **given)
    assert Ablation(**given, train=False).names == ["sweep"]  # what another machine has trained can be looked at


def test_grids_that_are_fine():
    for grid in ("lr_d=1e-4|4e-4; width=16 | 24;", "lr_d=1e-4", "attention_g=16|none|16,32", "mixed_precision=no|bf16", "num_classes=0|6"):
        planned_runs = Ablation(experiments="sweep", grid=grid, seeds="0").planned_runs("sweep")
        assert len({planned.config.run for planned in planned_runs}) == len(planned_runs) >= 1


# -------------------------------------------------------------------------------------------------- named experiments


@pytest.mark.parametrize("given", [
    dict(experiments="variant", settings="attention_g=none; attention_d=none"), dict(settings="attention_g=none; attention_d=none"),
    dict(preset="sngan-projection"), dict(preset="sngan-projection", experiments="baseline"),
])  # fmt: skip
def test_experiments_whose_arms_coincide_at_the_settings_are_refused(given):
    refused("experiments=", "are the same training at these settings", "out of experiments", **given)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("preset", ["twins32", "cifar10", "imagenet128"])
def test_their_arms_are_different_runs(name, preset):
    base = Config.preset(preset)
    configs = [Config.from_parameters(vars(base) | changes) for changes in EXPERIMENTS[name](base).arms.values()]
    assert len(set(map(what_is_trained, configs))) == len(configs)


def test_what_is_trained_is_every_parameter_that_changes_it():
    base, changed = Config.preset("twins32"), dict(
        width=32, width_d=32, max_multiplier=2, d_downsamples=2, d_flat_blocks=2, z_dim=16, attention_g="8", attention_d="8",
        attention_variant="paper", attention_block="residual", sn_g=False, sn_d=False, batch_norm_group=8, batch_norm_momentum=0.2, lr_g=1e-3,
        lr_d=1e-3, beta1=0.5, beta2=0.99, d_steps=2, batch_size=32, steps=10, ema_decay=0.9, ema_start=10, seed=1, mixed_precision="no",
        dtype="float64", augment="flip", num_classes=0, image_size=64, pairs=2,
    )  # fmt: skip
    configs = [base, *(base.replace(**{name: value}) for name, value in changed.items())]
    assert len(set(map(what_is_trained, configs))) == len(configs)
    same = dict(run="a", note="b", tags="c", log_every=3, num_processes=2, device="cpu", evaluate_n=77, gradient_accumulation=1)
    assert {what_is_trained(base.replace(**{name: value})) for name, value in same.items()} == {what_is_trained(base)}


def test_names_that_are_there_twice():
    refused("experiments='ttur,ttur'", "ttur is there twice", experiments="ttur, ttur")
    refused("experiments=''", "'' is not one of", experiments=" , ")


# ---------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(("settings", "says"), [
    ("seed=3", "parameter seeds"), ("run=a", "run cannot be set"), ("resume=demo", "resume cannot be set"), ("resume=demo@40", "resume cannot"),
    ("evaluate_n=20", "parameter n"), ("evaluate_every=5", "parameter evaluations"), ("sample_every=5", "parameter evaluations"),
    ("tags=a", "tags cannot be set"), ("note=a", "note cannot be set"), ("preset=cifar10", "parameter preset"),
    ("keep_checkpoints=3", "keep_checkpoints cannot be set"), ("width=8; width=16", "width is assigned twice"), ("width=", "width is empty"),
    (";;", "is not parameter=value"), ("width 8", "'width 8' is not parameter=value"), ("width=8|16", "width='8|16' is not a whole number"),
])  # fmt: skip
def test_settings_that_a_sweep_would_not_use(settings, says):
    refused(f"settings={settings!r}", says, settings=settings)


def test_settings_that_the_arms_override():
    refused("settings='lr_d=1e-3'", "varied by grid", experiments="sweep", grid="lr_d=1e-4|4e-4", settings="lr_d=1e-3")
    refused("attention_variant", "variant sets attention_variant", experiments="variant", settings="attention_variant=paper")
    refused("d_steps", "ttur sets d_steps", experiments="ttur", settings="d_steps=2")
    assert Ablation(experiments="ttur", settings="lr_d=1e-3").base.lr_d == 1e-3  # what its rates are made of
    assert Ablation(experiments="variant,ttur", settings="attention_variant=paper").base.attention_variant == "paper"


def test_what_is_given_twice():
    refused("steps=6 is also in settings='steps=5'", settings="steps=5", steps=6)
    refused("data='twins' is also in settings='data=cifar10'", settings="data=cifar10", data="twins")


@pytest.mark.parametrize("seeds", ["0,0", "0,00", [3, 1, 3], "²", "٣", "", "-1", "1.5", "9" * 400, "0-4", ","])
def test_seeds_that_do_not_fit(seeds):
    with pytest.raises(ParameterError, match="seeds="):
        Ablation(seeds=seeds)


# -------------------------------------------------------------------------------------------------------------- size


def test_more_than_can_be_done_is_refused_with_the_estimate():
    """At once: a grid is counted, and not made."""
    cells = "; ".join(
        f"{name}={'|'.join(map(str, range(8, 18)))}" for name in ("width", "z_dim", "width_d", "steps", "ema_start", "d_steps")
    )
    cells = cells.replace("steps=", "max_multiplier=", 1)
    refused("1,000,000 arms", "5,000,000 runs", f"{MOST_RUNS:,}", experiments="sweep", grid=cells)
    refused("100,000 seeds are 1,400,000 runs", "5,320,000,000 steps", seeds=",".join(map(str, range(100_000))))
    refused("70 runs: 140,000,000,000,000 steps", steps=10**12)
    refused("350,000,000,000,000 images", n=10**12)
    refused("evaluations=1000000000", "1900 steps", evaluations=10**9)
    refused("jobs=1000000", "cores of this machine", jobs=10**6)
    assert len(Ablation(experiments="variant", seeds=",".join(map(str, range(50)))).all_planned_runs()) == 100


# ------------------------------------------------------------------------------------------------------------- names


def test_runs_of_different_settings_have_different_names_that_every_disk_takes():
    names = ("width", "z_dim", "batch_size", "ema_start", "d_flat_blocks")
    many = "; ".join(f"{name}=32|64" for name in names) + "; batch_norm_momentum=0.123456789|0.987654321; beta2=0.123456789|0.987654321"
    planned_runs = Ablation(experiments="sweep", grid=many + "; attention_g=8,16,32|8,16; lr_d=0.000123456789", seeds="0").planned_runs(
        "sweep"
    )
    runs = {planned.config.run for planned in planned_runs}
    assert len(runs) == len(planned_runs) == 2**8 and all(len(run.encode()) <= 200 for run in runs)
    assert all(not set(run) & set("/@, ") for run in runs)


def test_folders_of_different_sweeps_are_different():
    grids = [dict(experiments="sweep", grid=f"lr_d={low}|1e-3") for low in ("1e-4", "1e-5")]
    given = [dict(), dict(experiments="ttur"), dict(experiments="ttur,variant"), dict(settings="width=8"), *grids]
    folders = [Ablation(**parameters).folder for parameters in given]
    assert all(a != b for a, b in itertools.combinations(folders, 2)) and all(len(folder.name.encode()) <= 200 for folder in folders)


# ------------------------------------------------------------------------------------------------------------- score


@pytest.mark.parametrize(("score", "given"), [
    ("fd_twins", {}), ("twins_hue", {}), ("cs_10splits_twins", {}), ("fid", dict(preset="cifar10")), ("is_10splits", dict(preset="cifar10")),
    ("fid", dict(settings="evaluate_extractor=inception")), ("fd_linear", dict(settings="evaluate_extractor=networks_of_a_test:network")),
])  # fmt: skip
def test_scores_that_there_will_be(score, given, extractor_module):
    assert Ablation(score=score, **given).score == score


@pytest.mark.parametrize(("score", "given"), [
    ("fid", {}), ("hue", {}), ("fd_twins@abc", {}), ("fd_twins", dict(preset="cifar10")), ("twins_hue", dict(preset="cifar10")), ("is", {}),
    ("fd_twins", dict(settings="evaluate_extractor=inception")), ("fd_conv", dict(settings="evaluate_extractor=networks_of_a_test:network")),
    ("kid", dict(preset="cifar10")), (" ", {}),
])  # fmt: skip
def test_scores_that_there_will_not_be_are_refused_before_the_runs(score, given, extractor_module):
    refused(f"score={score!r} is not a score of these runs", "there are: ", score=score, **given)


@pytest.mark.parametrize(("score", "meant", "given"), [
    ("FID", "fd_twins", {}), ("fid", "fd_twins", {}), ("fd", "fd_twins", {}), ("IS", "cs_twins", {}), ("Fd_Twins", "fd_twins", {}),
    ("fd_twins@abc", "fd_twins", {}), ("FID", "fid", dict(preset="cifar10")), ("fd", "fid", dict(preset="cifar10")),
])  # fmt: skip
def test_a_score_that_is_called_otherwise_is_suggested_without_its_hash(score, meant, given):
    refused(f"score={score!r} is not a score of these runs; did you mean {meant!r}? there are: ", score=score, **given)


@pytest.mark.parametrize("name", ["experiments", "score", "study", "settings", "grid", "out"])
def test_long_values_are_not_printed_in_full(name):
    with pytest.raises(ParameterError) as error:
        Ablation(**{name: "x" * 5000})
    assert name in str(error.value) and "x..." in str(error.value) and "x" * 200 not in str(error.value)


@pytest.mark.parametrize("preset", ["twins32", "cifar10"])
def test_every_score_of_a_sweep_has_a_direction(preset, monkeypatch):
    names = known_scores(Config.preset(preset))
    assert all(higher_is_better(name) is not None for name in names)
    monkeypatch.setattr(InceptionScore, "directions", {})
    score = next(name for name in names if name[:2] in ("is", "cs"))
    refused(f"score={score!r}", "whether higher is better is unknown", "directions", score=score, preset=preset)


def test_scores_are_also_known_with_their_hash():
    name = next(name for name in known_scores(Config.preset("twins32")) if name.startswith("fd_twins@"))
    assert Ablation(score=name).score == name


@pytest.fixture
def extractor_module(tmp_path, monkeypatch):
    (tmp_path / "networks_of_a_test.py").write_text("import torch\nnetwork = torch.nn.Linear(2, 2)\n")
    monkeypatch.syspath_prepend(tmp_path)
