import pytest
import torch

from workbench.data.binding import Binding
from workbench.studies import gate as module
from workbench.studies.gate import auc, base_config, discriminate, gate, main, verdicts


def test_auc_is_the_share_of_pairs_in_the_right_order():
    right, wrong = torch.randn(30).round(decimals=1), torch.randn(40).round(decimals=1) - 0.5
    pairs = [(a > b).double() + (a == b).double() / 2 for a in right for b in wrong]
    assert auc(right, wrong) == pytest.approx(sum(pairs).item() / 1200)
    assert auc(torch.ones(5), torch.ones(5)) == 0.5 and auc(torch.ones(5), torch.zeros(5)) == 1


def test_d_has_room_at_its_site():
    site = module.Discriminator(base_config()).attention["8"]
    assert site.query.weight.shape[:2] == (8, 64)
    sizes = [sum(p.numel() for p in module.Discriminator(base_config(**changes)).parameters()) for changes in module.ARMS.values()]
    assert sizes[0] < sizes[1] and abs(sizes[1] - sizes[2]) < 0.1 * (sizes[2] - sizes[0])  # residual and attention of equal size


@pytest.mark.slow
def test_d_learns_what_is_easy_and_not_what_is_not_there(monkeypatch):
    """D separates grey images from patterns at once, and does not separate images of one kind."""
    config = base_config(seed=0)
    monkeypatch.setattr(
        module, "_sets", lambda config, seed, counts, own_hues=False: {k: Binding(config.image_size, seed) for k in (0, *counts)}
    )
    assert abs(discriminate(config, [8], 20, 20)[-1]["auc"][8] - 0.5) < 0.15
    real = module._images
    monkeypatch.setattr(
        module, "_images", lambda data, indices: real(data, indices) * float(indices[0] % 2 == 0 and indices[0] != module.FRESH)
    )
    assert discriminate(config, [8], 20, 10)[-1] == dict(step=20, auc={8: 1.0})


def test_wrong_images_are_easy_first_and_hard_at_the_end(monkeypatch):
    """The three stages, and that no image is seen twice or both right and wrong."""
    seen = []

    def images(data, indices):
        seen.append((data.mismatched, data.own_hues, list(indices)))
        return torch.zeros(len(indices), 3, 32, 32)

    monkeypatch.setattr(module, "_images", images)
    monkeypatch.setattr(module, "FRESH", 4)
    discriminate(base_config(seed=0), [2, 8, 4], 10, 10)
    stages = seen[:6], seen[6:12], seen[12:-4]  # three steps, three, four, and the measurement
    kinds = [[(0, True), (8, True)] * 3, [(0, False), (8, False)] * 3, [(count, False) for count in (0, 8, 4, 2)] * 4]
    assert [[kind for *kind, _ in stage] for stage in stages] == [list(map(list, stage)) for stage in kinds]
    assert [len(indices) for *_, indices in stages[2]] == [24, 8, 8, 8] * 4
    indices = [index for *_, part in seen[:-4] for index in part]
    assert len(set(indices)) == len(indices) == 10 * 48
    measured = seen[-4:]
    assert [(count, own, len(part)) for count, own, part in measured] == [(count, False, 4) for count in (0, 8, 4, 2)]
    assert not set(measured[0][2]) & set(measured[1][2])


def test_what_is_recorded_is_not_trained_again(tmp_path, monkeypatch):
    trained = []

    def train(config, mismatched, steps, every):
        if len(trained) == 4:
            raise KeyboardInterrupt
        trained.append((config.seed, config.attention_d, config.attention_block))
        return [dict(step=steps, auc={count: 0.7 for count in mismatched})]

    monkeypatch.setattr(module, "discriminate", train)
    with pytest.raises(KeyboardInterrupt):
        gate(tmp_path / "gate.jsonl", mismatched=[8, 2], seeds=[0, 1], steps=10)
    first = list(trained)
    trained.clear()
    rows = gate(tmp_path / "gate.jsonl", mismatched=[2, 8], seeds=[0, 1], steps=10)
    assert len(rows) == 6 and len({*first, *trained}) == 6 == len(first) + len(trained)
    assert rows[0]["auc"] == {"8": {"10": 0.7}, "2": {"10": 0.7}}
    trained.clear()
    gate(tmp_path / "gate.jsonl", mismatched=[8, 2], seeds=[0], steps=20)  # longer ones are others
    assert len(trained) == 3


def rows(lead, seeds=5):
    """AUC 0.7 and a little by seed; attention leads by this much at 8 wrong pairs, by a tenth of it at 1."""
    return [
        dict(data="binding", mismatched=[8, 1], seed=seed, arm=arm, steps=9,
             auc={str(k): {"9": 0.7 + 0.01 * seed + (lead * k / 8 if arm == "attention" else 0)} for k in (8, 1)})
        for seed in range(seeds)
        for arm in module.ARMS
    ]  # fmt: skip


def test_a_task_is_admitted_where_attention_leads_both():
    row, hard = verdicts(rows(0.11))
    assert (row["mismatched"], row["verdict"], row["n"]) == (8, "admitted", 5) and row["lead"] == pytest.approx(0.11)
    assert row["none"] == pytest.approx(0.72) and (hard["mismatched"], hard["verdict"]) == (1, "not admitted")
    assert verdicts(rows(0.09))[0]["verdict"] == "not admitted" and verdicts(rows(0.2, 4))[0]["verdict"] == "4 of 5 seeds"
    strong = [row | dict(auc={k: {"9": 0.95} for k in "81"}) if row["arm"] == "residual" else row for row in rows(0.11)]
    assert verdicts(strong)[0]["verdict"] == "not admitted"  # a block of equal size does it as well
    assert verdicts(rows(0.2)[:2]) == []  # no seed has all arms


@pytest.mark.parametrize(("words", "message"), [
    (["--mismatched", "9"], "--mismatched=9: give numbers from 1 to 8"), (["--seeds", "a"], "--seeds='a' is not a list"),
    (["--steps", "0"], "--steps=0 must be"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(monkeypatch, capsys, tmp_path, words, message):
    monkeypatch.setattr("sys.argv", ["gate", str(tmp_path / "gate.jsonl"), *words])
    assert main() == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
