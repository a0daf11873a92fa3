"""The second study's decisions, on rows of worlds in which the answers are known."""

from __future__ import annotations

import ast

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import Ridge

from benchmarks.decisions import measures, settings
from benchmarks.decisions.analysis import (
    alarm,
    candidates,
    clock,
    course,
    intervals,
    labels,
    layer,
    order,
    samples,
    stop,
    verdicts,
)
from benchmarks.decisions.analysis.findings import findings
from benchmarks.decisions.analysis.whole import whole
from benchmarks.decisions.report import figures, tables
from benchmarks.decisions.windows import training_labels
from tests.support import ROOT

EPOCHS = settings.USUAL.evaluations
SETS = settings.EXPLORATORY + settings.CONFIRMATORY


def accuracy_of(run, rng):
    """Rises, and falls again where labels are wrong, the more and the earlier the more are."""
    epochs = np.array(EPOCHS, dtype=float)
    peak = 12 - 20 * run.noise
    falls = run.noise * np.clip(epochs - peak, 0, None) / 40
    return 0.8 - 0.3 * np.exp(-epochs / 2) - falls + rng.normal(0, 0.003, len(epochs))


def fake_run(run, rng):
    """probe_r2 says what is true, in units of its own; score only knows the step, and captured_r2 nothing at all."""
    true = accuracy_of(run, rng)
    blind = rng.normal(0.2, 0.01, len(EPOCHS))
    stages = []
    for at, epoch in enumerate(EPOCHS):
        numbers = {name: [float(blind[at]), 0.01] for name in candidates.HELD_OUT}
        numbers |= {"probe_r2": [0.5 * float(true[at]), 0.002], "captured": None if at < 2 else [0.5, 0.01]}
        numbers |= dict.fromkeys((*candidates.IN_SAMPLE, "null"), at / 10) | {"rankme": 100.0 - at}
        noisy = float(true[at] + rng.normal(0, 0.005))
        stages.append(
            {"step": 20 * epoch, "epoch": epoch, "test_accuracy": float(true[at]), "val_accuracy": noisy}
            | {"val_loss": 1 - noisy, "train_loss": at and 1 / (1 + at), "true": numbers, "length": numbers}
            | {"test_probe_true": {"r2": 0.5 * float(true[at]), "accuracy": 0.5}, "training_probe": {"accuracy": 0.7}}
        )
    errors = [[0.002] * at for at in range(len(EPOCHS))]
    paired = dict.fromkeys((*candidates.HELD_OUT, "val_accuracy", "val_loss"), errors)
    row = {"data": run.data, "noise": run.noise, "shuffled": run.shuffled, "seed": run.seed}
    return {"name": run.name, "run": row, "stages": stages, "paired_errors": paired}


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    """So many tell as much here, sooner."""
    monkeypatch.setattr(intervals, "DRAWS", 300)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return [fake_run(run, rng) for run in settings.runs(SETS)]


@pytest.fixture(scope="module")
def runs(rows):
    return candidates.by_set(rows)


def test_stopping_takes_the_best_until_patience_ends():
    assert stop.stopped([9, 1, 3, 2, 2.5, 8]) == 2
    assert stop.stopped([9, 1, 3, 2, 4, 8, 0]) == 5
    assert stop.stopped([np.nan, np.nan, 1, 2, 1, 1, 9]) == 3
    assert stop.stopped([0, 0, 0, 0, 5]) == 1


def test_the_true_number_stops_well_and_one_that_knows_the_step_never_does(runs):
    found = stop.decide(runs, noises=(0.4,))
    assert found["probe_r2"]["minus validation accuracy"].low > -0.015
    assert found["score"]["accuracy"].value == pytest.approx(
        np.mean([stop.truth(r)[-1] for d in settings.CONFIRMATORY for r in runs[d] if r["run"]["noise"] == 0.4])
    )
    assert found["score"]["minus validation accuracy"].high < 0
    assert found["best of all (not a rule)"]["accuracy"].value >= found["probe_r2"]["accuracy"].value


def test_the_best_fixed_epoch_is_that_of_the_other_sets(runs):
    mine = {name: [dict(run) for run in of_set] for name, of_set in runs.items()}
    for run in mine["bbc"]:
        run["stages"] = [stage | {"test_accuracy": float(at == 1)} for at, stage in enumerate(run["stages"])]
    assert stop.best_fixed(mine, "bbc") == stop.best_fixed(runs, "bbc") != 1


def test_bad_evaluations_are_those_that_fell():
    run = {"stages": [{"test_accuracy": a} for a in (0.9, 0.5, 0.6, 0.585, 0.58, 0.7)]}
    assert alarm.bad(run).tolist() == [False, False, True, False]


def test_a_fall_of_exactly_two_points_is_bad():
    accuracies = [round(a / 1800, 5) for a in (0, 1200, 1164, 1165, 1163)]
    assert alarm.bad({"stages": [{"test_accuracy": a} for a in accuracies]}).tolist() == [True, False, True]


def test_drops_are_paired_and_count_from_where_they_are_told():
    numbers = [0.5, 0.3, 0.4, 0.2]
    run = {
        "stages": [{"true": {"probe_r2": [v, 9.0], "score": v}} for v in numbers],
        "paired_errors": {"probe_r2": [[0.1] * at for at in range(4)]},
    }
    assert candidates.drops(run, "probe_r2", 0)[1:] == pytest.approx([2, 1, 3])
    assert candidates.drops(run, "probe_r2", 1)[2:] == pytest.approx([-1, 2])
    assert candidates.drops(run, "score", 0)[1:] == pytest.approx([0.4, 0.2, 0.6])


def test_alarms_find_what_fell_and_stay_silent_elsewhere(runs):
    found = alarm.decide(runs, first=1)
    assert found["probe_r2"]["balanced accuracy"].low > 0.9
    assert 0.35 < found["captured_r2"]["balanced accuracy"].value < 0.65
    assert found["score"]["found"].value == 0
    assert found["score"]["silent where fine"].value == 1


def test_thresholds_keep_false_alarms_of_the_other_sets_to_a_tenth(runs):
    for name in ("probe_r2", "captured_r2"):
        limit = alarm.threshold(runs, "bbc", name, 1)
        quiet = [r for data, of_set in runs.items() if data != "bbc" for r in of_set if r["run"]["noise"] == 0]
        raised = [(candidates.drops(r, name, 1)[2:][~alarm.bad(r)] > limit).any() for r in quiet]
        assert np.mean(raised) <= 0.1
        lower = [(candidates.drops(r, name, 1)[2:][~alarm.bad(r)] >= limit).any() for r in quiet]
        assert np.mean(lower) > 0.1


def test_only_what_differs_between_runs_at_a_step_is_beyond_the_clock(runs):
    found = clock.decide(runs)
    assert found["probe_r2"]["test accuracy"].low > 0.95
    assert found["score"]["test accuracy"].value == pytest.approx(0)
    assert abs(found["captured_r2"]["test accuracy"].value) < 0.1
    assert 0.5 < found["val_accuracy"]["test accuracy"].value < 1
    assert found["probe_r2"]["test R² of the probe"].low > 0.95


def test_a_number_that_misleads_explains_less_than_nothing(runs):
    turned = {
        data: [
            run | {"stages": [stage | {"val_accuracy": -stage["test_accuracy"]} for stage in run["stages"]]}
            if data == "bbc"
            else run
            for run in of_set
        ]
        for data, of_set in runs.items()
    }
    assert clock.explained(turned, "val_accuracy", "accuracy")["bbc"][0] < -1


def test_intervals_are_over_the_confirmatory_sets_alone(monkeypatch):
    monkeypatch.setattr(intervals, "DRAWS", 2000)
    values = {name: [1.0, 3.0] for name in settings.CONFIRMATORY} | {name: [9.0] for name in settings.EXPLORATORY}
    found = intervals.mean_over_sets(values)
    assert (found.value, found.low, found.high, found.exploratory) == (2, 2, 2, 9)
    values = {name: [float(at)] for at, name in enumerate(settings.CONFIRMATORY)}
    found = intervals.mean_over_sets(values)
    error = np.std(range(9)) / 3
    assert found.value - found.low == pytest.approx(1.96 * error, rel=0.1)


def test_what_cannot_be_told_is_said_to_be_undefined():
    undefined = intervals.over_sets(lambda names: np.nan, settings.CONFIRMATORY)
    assert str(undefined) == "undefined"
    one = settings.CONFIRMATORY[0]
    rare = intervals.over_sets(lambda names: 1.0 if one in names else np.nan, settings.CONFIRMATORY)
    assert rare.value == 1
    assert np.isnan(rare.low)
    few = intervals.mean_over_sets({one: [0.5]})
    assert str(few) == "0.500 (1 sets)"
    assert np.isnan(few.low)


def test_limits_by_students_t_are_those_of_scipy():
    values = np.arange(9.0) ** 2
    found = intervals.mean_over_sets({name: [v] for name, v in zip(settings.CONFIRMATORY, values, strict=True)})
    expected = stats.t.interval(0.95, 8, values.mean(), values.std(ddof=1) / 3)
    assert found.t == pytest.approx(expected)


def test_what_exploratory_sets_say_does_not_change_with_other_rows(rows):
    exploratory = [row for row in rows if row["run"]["data"] in settings.EXPLORATORY]
    alone, with_others = findings([], exploratory, []), findings([], rows, [])
    for chapter in ("stop", "alarm", "clock"):
        for name, row in alone[chapter].items():
            for column in (column for column in row if column != "threshold of all sets"):
                assert row[column].exploratory == with_others[chapter][name][column].exploratory


def test_sets_whose_runs_hardly_differ_count_for_little_in_the_pooled_share(runs):
    flat = {
        data: [
            run | {"stages": [s | {"test_accuracy": 0.5 + 1e-6 * at} for at, s in enumerate(run["stages"])]}
            if data == "bbc"
            else run
            for run in of_set
        ]
        for data, of_set in runs.items()
    }
    flat["bbc"][0]["stages"][3]["test_accuracy"] += 1e-3
    found = clock.decide(flat)["probe_r2"]
    assert clock.explained(flat, "probe_r2", "accuracy")["bbc"][0] < -5
    assert found["test accuracy"].value < 0.5
    assert found["test accuracy, all sets pooled"].value > 0.8


def test_the_manipulation_check_sees_who_fell(rows):
    found = course.check(rows)
    assert found["40% wrong"]["best minus last"].low > 0.03
    assert found["0% wrong"]["best minus last"].high < 0.02


def fake_base(model, data, rng):
    good = rng.normal(0.3, 0.1, 5)
    layers = {
        str(number): {name: [float(good[at]), 0.01] for name in ("probe_r2", "probe_accuracy")}
        | {name: [float(-good[at]), 0.01] for name in ("captured_r2", "captured", "principal_r2")}
        | dict.fromkeys(("score", "lift", "captured_in_sample", "in_sample_r2", "rankme"), 0.5)
        | {"test": {"r2": float(good[at]), "accuracy": float(good[at])}}
        for at, number in enumerate((0, 1, 2, 3, -1))
    }
    curve = {
        "captured_r2": {"1": [0.2, 0.01], "8": [0.3, 0.01]},
        "bag_r2": {"1": [0.1, 0.01], "8": [0.3, 0.01]},
        "principal_r2": {"1": [0.15, 0.01], "8": [0.4, 0.01]},
    }
    truth = {size: {what: [0.5, 0.005] for what in ("r2", "accuracy")} for size in ("400", "800")}
    draw = lambda: {size: [0.5 + float(rng.normal(0, 0.02)), 0.02] for size in truth}  # noqa: E731
    counts = {"truth": truth, "predicted": [{what: draw() for what in ("r2", "accuracy")} for _ in range(4)]}
    return {
        "name": f"{model}-{data}",
        "base": {"model": model, "data": data},
        "layers": layers,
        "order": {"-1": curve, "2": curve},
        "label_counts": {"-1": counts, "2": counts},
    }


@pytest.fixture(scope="module")
def bases():
    rng = np.random.default_rng(1)
    return [fake_base(model, data, rng) for model in settings.MODELS for data in SETS]


def test_layers_are_picked_by_the_highest_number(bases):
    found = layer.decide(bases)
    assert found["probe_r2"]["test r2, minus the best layer"].value == 0
    assert found["probe_r2"]["test r2, minus the last layer"].low > 0
    assert found["captured_r2"]["test r2, minus the best layer"].high < 0
    assert found["the last layer"]["test r2, minus the last layer"].value == 0
    assert layer.layer_values(bases[0], "probe_r2")[-1] == bases[0]["layers"]["-1"]["probe_r2"][0]


def test_intervals_of_predictions_are_counted(bases):
    found = labels.decide(bases)["accuracy, 800 labels"]
    assert 0.9 < found["held"].value <= 1
    assert found["bias"].low < 0 < found["bias"].high
    off = [b | {"label_counts": {"-1": b["label_counts"]["-1"] | {"truth": {"400": {"r2": [0, 0], "accuracy": [0, 0]}, "800": {"r2": [0, 0], "accuracy": [0, 0]}}}}} for b in bases]  # fmt: skip # noqa: E501
    assert labels.decide(off)["accuracy, 800 labels"]["held"].value == 0


def test_order_is_paired_over_sets_by_number_of_directions(bases):
    found = order.decide(bases, "smollm2", "middle")
    assert found[1]["minus bag_r2"].value == pytest.approx(0.1)
    assert found[8]["minus principal_r2"].value == pytest.approx(-0.1)


def fake_many(data, signal):
    """A score that follows what is read held out from n/d 5 on."""
    stages = []
    for at in range(7):
        cuts = {}
        for cut in ("1", "2", "5", "10", "all"):
            sees = cut in ("5", "10", "all")
            cuts[cut] = {"score": 0.01 + signal * at * sees, "drawn": [0.01, 0.001], "probe_r2": [0.1 * at, 0.01]}
            cuts[cut] |= {"captured_in_sample": 0.1 * at * sees, "captured_r2": [-0.1 * at, 0.01]}
        stages.append({"cuts": cuts})
    return {"name": settings.Run(data).name, "run": {"data": data}, "scale": {"val": 10_000}, "stages": stages}


def test_to_rise_and_to_clear_is_asked_of_the_same_sets():
    many = [fake_many(data, 0.002) for data in settings.LARGE]
    found = samples.decide(many, 576)
    assert samples.holds(found["10"])["both"] == 5
    one, other = settings.LARGE[:2]
    found["10"][one] |= {"rise": -1.0}
    assert samples.holds(found["10"])["passes"]
    found["10"][other] |= {"distance after": 2.9}
    assert not samples.holds(found["10"])["passes"]
    assert not samples.holds(dict(list(found["5"].items())[:3]))["passes"]


def test_enough_samples_are_those_from_which_on_all_pass():
    many = [fake_many(data, 0.002) for data in settings.LARGE]
    found = samples.decide(many, 576)
    assert list(found) == ["1", "2", "5", "10", "17.4"]
    assert samples.enough(found) == "5"
    assert samples.holds(found["2"])["rise"] == 0
    assert samples.mean(found["2"], "captured_in_sample") == 0
    assert samples.mean(found["5"], "captured_in_sample") == pytest.approx(1)
    assert samples.mean(found["2"], "captured_r2") == pytest.approx(-1)
    nothing = samples.decide([fake_many(data, 0.0) for data in settings.LARGE], 576)
    assert samples.enough(nothing) is None


def test_everything_is_written(bases, rows, tmp_path):
    many = [fake_many(data, 0.002) for data in settings.LARGE]
    found = findings(bases, rows, many)
    chapters = tables.chapters(found)
    assert "| `probe_r2` |" in chapters["stop"]
    assert chapters["samples"].splitlines()[4].endswith("| yes | 1.00 | -1.00 |")
    figures.write(found, bases, rows, tmp_path)
    names = {path.stem for path in tmp_path.iterdir()}
    of_layers = {"layers", "layer_smollm2", "layer_gemma3"}
    assert names == {"course", "stop", "alarm", "clock", "labels", "order", "samples"} | of_layers


def test_what_was_named_passes_where_its_interval_clears_the_bar(bases, rows):
    many = [fake_many(data, 0.002) for data in settings.LARGE]
    said = findings(bases, rows, many)["verdicts"]
    passed = {(each.decision, each.measure): each.passes for each in said}
    assert passed["layer", "smollm2: test r2, minus the last layer"]
    assert passed["labels", "gemma3: accuracy, 800 labels, intervals that hold"]
    assert passed["enough samples", "follows, rises and clears its null"]
    assert not passed["alarm", "balanced accuracy"]  # all that is held out but probe_r2 knows nothing here
    assert not passed["stop", "test accuracy minus best fixed epoch"]
    (ordered,) = (each for each in said if each.measure.startswith("smollm2, last layer"))
    assert (ordered.found, ordered.passes) == ("at k = 1", True)


def test_a_bar_is_cleared_by_the_lower_limit():
    sides = {"minus validation accuracy": (-0.010, -0.014), "minus best fixed epoch": (0.010, -0.001)}
    row = {side: intervals.Interval(value, low, 1.0, 0.0) for side, (value, low) in sides.items()}
    assert [each.passes for each in verdicts._stop({verdicts.STOP: row})] == [True, False]
    for value, low, passes in ((0.66, 0.51, True), (0.64, 0.6, False), (0.7, 0.49, False)):
        row = {"balanced accuracy": intervals.Interval(value, low, 1.0, 0.0)}
        assert verdicts._alarm({verdicts.ALARM: row})[0].passes == passes


def test_nothing_of_the_confirmatory_sets_is_looked_at_before_all_is_there(bases, rows):
    many = [fake_many(data, 0.002) for data in settings.LARGE]
    assert whole(bases, rows, many) == (bases, rows, many)
    short = whole(bases[:-1], rows[:-1], many[:-1])
    assert {base["base"]["data"] for base in short[0] if base["base"]["model"] == "gemma3"} == set(settings.EXPLORATORY)
    assert {run["run"]["data"] for run in short[1]} == set(settings.EXPLORATORY)
    assert short[2] == []
    assert {each.decision for each in findings(*short)["verdicts"]} == {"layer", "labels", "order"}
    assert "exploratory sets alone" in tables.chapters(findings(*short))["stop"]


def test_so_many_training_labels_are_wrong_and_each_is_another_class():
    right = [0, 1, 2, 3] * 25
    wrong = training_labels(settings.Run("bbc", 0.4), right, 4)
    assert sum(a != b for a, b in zip(wrong, right, strict=True)) == 40
    assert wrong == training_labels(settings.Run("bbc", 0.4), right, 4)
    assert wrong != training_labels(settings.Run("bbc", 0.4, seed=1), right, 4)
    shuffled = training_labels(settings.Run("bbc", shuffled=True), right, 4)
    assert sorted(shuffled) == sorted(right)
    assert shuffled != right


def test_there_are_as_many_runs_as_the_protocol_says():
    runs = settings.runs(SETS)
    assert len(runs) == len({run.name for run in runs}) == 12 * 6 + 3


def test_the_tested_probe_is_a_ridge_regression(rng):
    states = torch.tensor(rng.normal(size=(120, 6)))
    truth = (states[:, 0] > 0).long().tolist()
    train, test = (states[:80], truth[:80]), (states[80:], truth[80:])
    found = measures.tested(train, test, 2)
    model = measures.ridge_probe(*train, 2)
    again = Ridge(alpha=float(model.alpha_)).fit(train[0], np.eye(2)[train[1]]).predict(test[0])
    right = np.eye(2)[test[1]]
    assert found["accuracy"] == pytest.approx((again.argmax(1) == test[1]).mean())
    mean = np.eye(2)[train[1]].mean(0)
    assert found["r2"] == pytest.approx(1 - ((again - right) ** 2).sum() / ((mean - right) ** 2).sum())


def test_errors_of_the_head_are_those_of_paired_texts(rng):
    texts = torch.arange(300) // 3
    truth = torch.zeros(300, dtype=torch.long)
    heads = []
    for _ in range(2):
        logits = torch.tensor(rng.normal(size=(300, 2)))
        heads.append(measures.head_numbers(logits, truth, texts))
    differences = heads[0]["accuracy"][1] - heads[1]["accuracy"][1]
    expected = differences.std() * 10 / 300
    stages = [{"head": head, "num_windows": 300, "held_out": None} for head in heads]
    assert measures.head_error(stages[0], stages[1], "accuracy") == pytest.approx(float(expected))


def test_folders_import_from_those_before_them():
    order = [
        "settings",
        "windows",
        "measures",
        "label_counts",
        "bases",
        "training",
        "rows",
        "analysis",
        "report",
        "__main__",
    ]
    for path in (ROOT / "benchmarks" / "decisions").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts[2:]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("benchmarks.decisions."):
                imported = node.module.split(".")[2]
                assert order.index(imported) <= order.index(parts[0]), f"{path} imports {node.module}"
