# ruff: noqa: RUF001
import json

import numpy as np
import pytest
from records import scored

from workbench import Run, WorkbenchError
from workbench.metrics.protocols import brief, protocol
from workbench.metrics.reported import published
from workbench.records import evaluation_record
from workbench.runs import create_run, find_runs
from workbench.studies import groups
from workbench.studies.scores import at_steps, scores_by_name


@pytest.fixture
def make(tiny):
    """A run that was never trained: `make("name", seed=1)`."""
    return lambda name, **settings: create_run(tiny(run=name, **settings))


def labels(runs):
    return [group.label for group in groups.group(runs)]


# ------------------------------------------------------------------------------------------------------- finding runs


def test_runs_are_found_by_name_pattern_and_tag(make):
    runs = [make(f"cat-{k}", tags="pets, felines" if k else "") for k in range(3)] + [make("dog", tags="pets")]
    for run in runs[1:]:
        (run.path / "provenance.json").write_text(json.dumps(dict(tags=run.config.tags.replace(" ", "").split(","))))
    runs[2].append("history.jsonl", dict(step=1))

    def found(text):
        return [run.name for run in find_runs(text)]

    assert found("dog, cat-*") == ["dog", "cat-0", "cat-1", "cat-2"]
    assert found("pets") == ["cat-1", "cat-2", "dog"] and found("felines,dog,cat-1") == ["cat-1", "cat-2", "dog"]
    assert found("") == ["cat-2"]  # all with a history
    assert found("demo") == ["demo"] and found(str(runs[0].path)) == ["cat-0"]
    with pytest.raises(WorkbenchError, match=r"there is no run 'dogs' in .*did you mean 'dog'"):
        find_runs("dogs")
    with pytest.raises(WorkbenchError, match=r"no run in .* matches 'x\*'"):
        find_runs("x*")


def test_what_a_run_is_opened_by(make, tmp_path):
    inside = make("inside")
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    make("moved").path.rename(moved)
    assert (inside.reference, Run("demo").reference, Run(moved).reference) == ("inside", "demo", str(moved))


# ------------------------------------------------------------------------------------------------------ what differs


def test_runs_that_differ_in_the_seed_alone_are_a_group(make):
    runs = [make(f"{rate}-{seed}", lr_d=rate, seed=seed, tags=f"t{seed}") for seed in (2, 0, 1) for rate in (1e-3, 1e-2)]
    assert groups.differing(runs) == ["lr_d"]
    slow, fast = groups.group(runs)
    assert slow.seeds == [0, 1, 2] and [run.name for run in slow.runs] == ["0.001-0", "0.001-1", "0.001-2"]
    assert slow.values == {"lr_d": 1e-3} and (slow.label, fast.label) == ("lr_d=0.001 × 3 seeds", "lr_d=0.01 × 3 seeds")


def test_labels(make):
    a, b = make("a"), make("b", width=16)
    assert labels([a, b]) == ["a", "b"] and labels([a]) == ["a"]
    twins = [make("rep-seed0"), make("rep-seed1", seed=1)]
    assert labels(twins) == ["rep × 2 seeds"]
    assert labels([make("same-1"), make("same-2")]) == ["same × 2 runs"]
    many = [make("many-0", width=16, z_dim=9, beta1=0.5, steps=9), make("many-1", width=16, z_dim=9, beta1=0.5, steps=9, seed=1), a]
    assert labels(many) == ["many × 2 seeds", "a"]  # too many parameters to list
    long = [make("x" * 60 + end, width=width) for end, width in (("1", 8), ("2", 16))]
    assert all(len(label) <= groups.LONG for label in labels(long)) and len(set(labels(long))) == 2
    alike = [make("y" * 40 + middle + "z" * 30, width=width) for middle, width in (("1", 8), ("2", 16))]
    assert labels(alike) == [run.name for run in alike]  # shortened they would be the same


def test_a_fork_is_no_replicate_and_a_resumed_run_is(make):
    """Also where a fork goes on: its origin stays on record."""
    parent, other, fork = make("parent"), make("other", seed=1), make("fork", seed=2, resume="parent@2")
    for run in (parent, fork):
        run.update_config(run.config.replace(resume=run.name, log_every=2))
    assert groups.settings(parent)["resume"] is None and groups.settings(fork)["resume"] == "parent@2"
    assert len(groups.group([parent, other])) == 1
    assert groups.differing([parent, other, fork]) == ["resume"] and [len(g.runs) for g in groups.group([parent, fork, other])] == [2, 1]


@pytest.mark.parametrize("content", [b"", b'{"wdth": 3}', b'{"width": ', b"[1]", b"\xff\xfe", b'{"lr_d": "fast"}', b"\0" * 40])
def test_a_run_that_cannot_be_read_is_reported_and_left_out(make, content, capsys):
    good, bad = make("good"), make("bad")
    (bad.path / "config.json").write_bytes(content)
    (group,) = groups.group([bad, good])
    assert group.label == "good" and groups.differing([bad, good]) == [] and groups.readable([bad]) == []
    said = capsys.readouterr().err
    assert said.startswith(str(bad.path)) and " cannot be read: " in said and said.count("\n") == 1
    assert groups.group([]) == [] and groups.differing([]) == []


# ------------------------------------------------------------------------------------------------------ axes and means


def test_places_on_an_axis():
    history = [dict(step=10, images=80, seconds=360), dict(step=20, images=160, seconds=1080)]
    for axis, expected in (("steps", [0, 5, 15, 30]), ("images", [0, 40, 120, 160]), ("hours", [0, 0.05, 0.2, 0.3])):
        np.testing.assert_allclose(groups.along(history, axis, [0, 5, 15, 30]), expected)
    odd = [
        dict(step=1),
        dict(step=2, seconds="x"),
        dict(step=3, seconds=None),
        dict(step="4", seconds=1),
        dict(step=5, seconds=float("nan")),
    ]
    np.testing.assert_allclose(groups.along([*odd, *history], "hours", [5, 15]), [0.05, 0.2])
    assert np.isnan(groups.along(odd, "hours", [1, 2])).all()
    assert np.isnan(groups.along([], "hours", [1, 2])).all() and list(groups.along([], "steps", [1, 2])) == [1, 2]


def curve(line: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([*line], int), np.array([*line.values()], float)


def test_mean_and_deviation_against_a_loop():
    random = np.random.default_rng(0)
    lines = [{step: random.normal() for step in range(0, last, 2)} for last in (20, 12, 30)]
    steps, mean, sd = groups.mean_and_sd([*map(curve, lines)])
    assert steps.tolist() == [0, 2, 4, 6, 8, 10]
    for k, step in enumerate(steps.tolist()):
        values = [line[step] for line in lines]
        average = sum(values) / 3
        assert mean[k] == pytest.approx(average) and sd[k] == pytest.approx((sum((v - average) ** 2 for v in values) / 2) ** 0.5)
    for none in ([curve({1: 1.0}), curve({})], []):
        assert all(len(part) == 0 for part in groups.mean_and_sd(none))
    assert np.isnan(groups.mean_and_sd([curve({1: float("nan")}), curve({1: 1.0})])[1][0])  # a run that diverged shows in the mean
    twice = (np.array([3, 1, 2, 1]), np.array([0.0, 9.0, 4.0, 1.0]))  # of step 1 the last value counts
    steps, mean, _ = groups.mean_and_sd([twice, curve({1: 3.0, 2: 6.0})])
    assert steps.tolist() == [1, 2] and mean.tolist() == [2, 5]


# ------------------------------------------------------------------------------------------------------------- scores


def test_scores_of_runs(make):
    a, b = make("a"), make("b", seed=1)
    scored(a, 20, fid=2.0)
    scored(a, 10, fid=1.0, kid=0.1)
    scored(b, 10, **{"fd_twins@abc": 5.0, "fid": 3.0})
    scored(a, 20, fid=2.5)  # again: the newest counts
    members = groups.group([a, b])
    found = scores_by_name(members)
    assert set(found) == {"fid", "kid", "fd_twins@abc"}
    assert [(score.run.name, score.step, score.value) for score in found["fid"]] == [("a", 10, 1.0), ("a", 20, 2.5), ("b", 10, 3.0)]
    assert list(scores_by_name(members, "fd_twins, kid")) == ["fd_twins@abc", "kid"]
    with pytest.raises(WorkbenchError, match="there is no score 'fi' yet; did you mean 'fid'"):
        scores_by_name(members, "fi")


@pytest.mark.parametrize("lacks", ["settings", "extractor", "reference"])
@pytest.mark.parametrize("value", [True, "text", [], {}, 3])
def test_evaluations_without_a_complete_protocol_are_left_out_and_reported(make, capsys, lacks, value):
    run = make("a")
    record = scored(run, 10, fid=1.0)
    run.append("evaluations.jsonl", record | {lacks: value, "step": 20})
    run.append(
        "evaluations.jsonl", {key: item for key, item in record.items() if key not in (lacks, "errors", "per_class", "n")} | {"step": 30}
    )
    assert [score.step for score in scores_by_name(groups.group([run]))["fid"]] == [10]
    said = capsys.readouterr().err
    assert f"{run.path}/evaluations.jsonl: records without a complete protocol are left out" in said and said.count("\n") == 1


def test_scores_that_need_no_extractor_and_no_real_images_are_compared(make):
    """The disagreement of twins, which training evaluates by itself, was dropped: its records had no settings."""
    runs = [make("a"), make("b", seed=1)]
    about = dict(protocol="twins: n=500, seed 1", settings=dict(name="twins", n=500), n=500, extractor=None, reference=None)
    for step, run in ((10, runs[0]), (20, runs[1])):
        run.append("evaluations.jsonl", evaluation_record(dict(twins_hue=0.1), step=step, **about))
    assert [score.step for score in scores_by_name(groups.group(runs))["twins_hue"]] == [10, 20]
    assert brief(about["protocol"]) == "twins" and published(runs[0].evaluations()[0]) == []
    scored(runs[0], 30, twins_hue=0.2)  # of another protocol
    with pytest.raises(WorkbenchError, match="cannot be compared"):
        scores_by_name(groups.group(runs))


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("n=500", [10]),
        ("n=5000", [20]),
        ("=500", [10, 20]),
        ("against 5,000", [10]),
        ("against 5", []),
        ("real", [10, 20]),
        ("eal", []),
        ("", [10, 20]),
    ],
)
def test_a_protocol_is_selected_by_whole_numbers_and_beginnings_of_words(make, text, steps):
    """`n=500` selects neither n=5000 nor reference_n=500."""
    run = make("a")
    for step, line in (
        (10, "workbench: n=500, against 5,000 real images"),
        (20, "workbench: n=5000, reference_n=500, against 50,000 real images"),
    ):
        about = dict(protocol=line, settings=dict(name="workbench", n=step), n=step, extractor=None, reference=None)
        run.append("evaluations.jsonl", evaluation_record(dict(fid=1.0), step=step, **about))
    if steps:
        found = scores_by_name(groups.group([run]), protocol=text, across_protocols=True)
        assert [score.step for score in found["fid"]] == steps
    else:
        with pytest.raises(WorkbenchError, match=r"matches no protocol of these scores"):
            scores_by_name(groups.group([run]), protocol=text)


def test_scores_that_are_no_finite_numbers_are_left_out_and_reported(make, capsys):
    run = make("a")
    scored(run, 10, fid=1.0, nan=float("nan"), inf=float("inf"), less=-float("inf"), huge=10**400)
    found = scores_by_name(groups.group([run]))
    assert [(name, [score.value for score in values]) for name, values in found.items()] == [("fid", [1.0])]
    said = capsys.readouterr().err.splitlines()
    assert any("nan of step 10 is 'nan', not a finite number: left out" in line for line in said) and len(said) == len(set(said)) == 4


def test_records_of_other_shapes_are_left_out(make):
    """By whoever reads them, a line each: what is left is drawn and compared."""
    run = make("a")
    good = scored(run, 10, fid=1.0)
    for odd in (dict(step="20"), dict(step=None), dict(scores=None), dict(scores=[1]), dict(scores=dict(fid="1")), dict(protocol=None)):
        run.append("evaluations.jsonl", good | odd)
    assert [score.step for score in scores_by_name(groups.group([run]))["fid"]] == [10]


def test_scores_of_different_protocols_are_refused_unless_asked_for_or_chosen(make):
    a, b = make("a"), make("b", seed=1)
    scored(a, 10, fid=1.0)
    scored(b, 10, protocol("official", n=70), fid=2.0)
    members = groups.group([a, b])
    with pytest.raises(WorkbenchError, match=r"cannot be compared.*n: 50000 and 70"):
        scores_by_name(members)
    assert [score.value for score in scores_by_name(members, across_protocols=True)["fid"]] == [1.0, 2.0]
    assert [score.value for score in scores_by_name(members, protocol="n=70")["fid"]] == [2.0]
    with pytest.raises(WorkbenchError, match=r"protocol='n=71' matches no protocol .*official; inception.*but n=70"):
        scores_by_name(members, protocol="n=71")


def test_scores_at_steps(make):
    a, b = make("a"), make("b", seed=1)
    for run, steps in ((a, (10, 20, 30)), (b, (10, 20))):
        for step in steps:
            scored(run, step, fid=float(step))
    values = scores_by_name(groups.group([a, b]))["fid"]

    def at(steps):
        return [(score.run.name, score.step) for score in at_steps(values, steps)]

    assert at("last") == [("a", 30), ("b", 20)] and at("common") == [("a", 20), ("b", 20)]
    assert at("10,30") == [("a", 10), ("a", 30), ("b", 10)] and at("5") == [] and at_steps([], "common") == []
