"""The numbers are those of a bare loop over the same rows, and are wherever Trainer puts its own."""

from __future__ import annotations

import pytest

from ntps_lightning.huggingface import watch
from tests.huggingface.runs import (
    BESIDE,
    EVALUATED,
    Logs,
    Measured,
    Rows,
    make_model,
    make_trainer,
    measure,
    numbers,
    ours,
    rows_of,
)

_ROWS = [(row["input_ids"], row["label"]) for row in BESIDE]


def check(values, details, prefix="eval_ntps"):
    wanted = numbers(details, prefix)
    assert {key: values[key] for key in wanted} == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("layers", [-1, "all"])
@pytest.mark.parametrize("data", [None, BESIDE], ids=["listening", "side set"])
def test_a_bare_loop_gives_the_same(tmp_path, data, layers):
    measured = Measured(EVALUATED if data is None else _ROWS, layers)
    trainer = make_trainer(tmp_path, callbacks=[measured])
    callback = watch(trainer, data=data, layers=layers)
    trainer.train()
    baseline, *after = callback.history
    assert len(after) == len(measured.found) == 2
    for row, metrics, details in zip(after, measured.metrics, measured.found, strict=True):
        check(row, details)
        assert ours(metrics) == ours(row)
        for layer, each in details.items() if layers == "all" else ():
            assert row[f"eval_ntps_layers/{layer:02d}/score"] == pytest.approx(each.score, abs=1e-6)
    assert measured.found[0][2].score != pytest.approx(measured.found[1][2].score, abs=1e-4), "weights have moved"
    logged = rows_of(trainer)
    assert [row["step"] for row in logged] == [0, 3, 6]
    check(logged[0], measured.before)
    gains = [row["eval_ntps/gain"] for row in logged[1:]]
    assert gains == pytest.approx([row["eval_ntps/score"] - measured.before[2].score for row in logged[1:]], abs=1e-6)
    assert ours(baseline) == ours(logged[0])
    assert callback.details[2].score == after[-1]["eval_ntps/score"]


@pytest.mark.filterwarnings("ignore:`torch.cpu.amp.autocast")  # by transformers 4.x
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("data", [None, BESIDE], ids=["listening", "side set"])
def test_the_baseline_is_what_evaluating_before_training_gives(tmp_path, data, half):
    before = make_trainer(tmp_path, bf16=half)
    watch(before, data=data)
    wanted = ours(before.evaluate())
    exact = measure(make_model(), EVALUATED if data is None else _ROWS)[2].score
    assert (abs(wanted["eval_ntps/score"] - exact) > 1e-6) == half, "in the precision of the run"
    trainer = make_trainer(tmp_path, bf16=half)
    watch(trainer, data=data)
    trainer.train()
    first = ours(rows_of(trainer)[0])
    assert first == pytest.approx(wanted, abs=1e-6)
    assert first.keys() == wanted.keys()


def test_an_evaluation_at_the_start_is_the_baseline(tmp_path):
    trainer = make_trainer(tmp_path, eval_on_start=True)
    callback = watch(trainer)
    trainer.train()
    assert [row["step"] for row in rows_of(trainer)] == [row["step"] for row in callback.history] == [0, 3, 6]
    assert rows_of(trainer)[0]["eval_ntps/gain"] == 0
    assert "eval_loss" in rows_of(trainer)[0]


@pytest.mark.parametrize("data", [None, BESIDE], ids=["listening", "side set"])
def test_what_is_returned_is_logged_once_and_told_to_every_callback(tmp_path, data):
    logs = Logs()
    trainer = make_trainer(tmp_path, callbacks=[logs])
    callback = watch(trainer, data=data)
    trainer.train()
    told = [(step, ours(values)) for step, values in logs.seen if ours(values)]
    assert [step for step, _ in told] == [0, 3, 6]
    assert [(row["step"], ours(row)) for row in rows_of(trainer)] == told
    evaluations = rows_of(trainer)[1:]
    assert all("eval_loss" in row for row in evaluations), "with Trainer's own"
    assert [row["epoch"] for row in rows_of(trainer)] == [0, 1, 2]
    returned = trainer.evaluate()
    assert ours(returned) == ours(rows_of(trainer)[-1]) == ours(callback.history[-1])
    assert ours(returned) == pytest.approx(ours(told[-1][1]), abs=1e-6), "the weights are the same"
    assert {"eval_loss", "eval_runtime", "epoch"} <= returned.keys()


def test_without_evaluations_a_side_set_is_measured_on_at_each_end_of_an_epoch(tmp_path):
    trainer = make_trainer(tmp_path, evaluated=None, eval_strategy="no")
    callback = watch(trainer, data=BESIDE)
    trainer.train()
    assert [row["step"] for row in rows_of(trainer)] == [row["step"] for row in callback.history] == [0, 3, 6]
    check(callback.history[-1], measure(trainer.model, _ROWS))
    assert [row["step"] for row in rows_of(trainer, "loss")] == [3, 6], "Trainer's own rows are there as ever"


@pytest.mark.parametrize("logging", ["steps", "epoch"])
def test_every_n_steps(tmp_path, logging):
    trainer = make_trainer(tmp_path, logging_strategy=logging, logging_steps=2)
    callback = watch(trainer, data=BESIDE, every_n_steps=2)
    trainer.train()
    assert [row["step"] for row in rows_of(trainer)] == [row["step"] for row in callback.history] == [0, 2, 4, 6]
    check(callback.history[-1], measure(trainer.model, _ROWS))
    wanted = [2, 4, 6] if logging == "steps" else [3, 6]
    assert [row["step"] for row in rows_of(trainer, "loss")] == wanted, "Trainer's own rows are there as ever"
    assert [row["step"] for row in rows_of(trainer, "eval_loss")] == [3, 6]


def test_several_side_sets(tmp_path):
    sets: dict[str, Rows] = {"first": _ROWS, "second": EVALUATED}
    trainer = make_trainer(tmp_path)
    data = {name: [{"input_ids": ids, "label": label} for ids, label in rows] for name, rows in sets.items()}
    callback = watch(trainer, data=data, prefix="probes")
    trainer.train()
    for name, rows in sets.items():
        prefix = f"eval_probes_{name}"
        assert [row["step"] for row in rows_of(trainer, f"{prefix}/score")] == [0, 3, 6]
        check(rows_of(trainer, f"{prefix}/score")[-1], measure(trainer.model, rows), prefix)
        assert callback.records[prefix].history[-1][f"{prefix}/score"] == callback.records[prefix].headline.score
    assert callback.history is callback.records["eval_probes_first"].history


def test_two_watches_of_one_trainer(tmp_path):
    trainer = make_trainer(tmp_path)
    listening = watch(trainer)
    beside = watch(trainer, data=BESIDE, prefix="beside")
    trainer.train()
    check(listening.history[-1], measure(trainer.model, EVALUATED))
    check(beside.history[-1], measure(trainer.model, _ROWS), "eval_beside")


def test_several_evaluation_sets_are_listened_to_apart(tmp_path):
    halves = {"first": EVALUATED[:30], "second": EVALUATED[30:]}
    trainer = make_trainer(tmp_path, evaluated=halves)
    callback = watch(trainer)
    trainer.train()
    assert set(callback.records) == {"eval_first_ntps", "eval_second_ntps"}
    for name, rows in halves.items():
        prefix = f"eval_{name}_ntps"
        logged = rows_of(trainer, f"{prefix}/score")
        assert [row["step"] for row in logged] == [0, 3, 6]
        check(logged[-1], measure(trainer.model, rows), prefix)
        check(logged[0], measure(make_trainer(tmp_path).model, rows), prefix)
    assert callback.history == callback.records["eval_first_ntps"].history


def test_several_evaluation_sets_and_a_side_set(tmp_path):
    trainer = make_trainer(tmp_path, evaluated={"first": EVALUATED[:30], "second": EVALUATED[30:]})
    callback = watch(trainer, data=BESIDE)
    trainer.train()
    assert [row["step"] for row in rows_of(trainer)] == [row["step"] for row in callback.history] == [0, 3, 6]
    check(callback.history[-1], measure(trainer.model, _ROWS))


@pytest.mark.parametrize("data", [None, BESIDE], ids=["listening", "side set"])
def test_predictions_are_not_measured(tmp_path, data):
    trainer = make_trainer(tmp_path)
    callback = watch(trainer, data=data)
    found = trainer.predict(EVALUATED)
    assert not ours(found.metrics, "test_ntps")
    assert not callback.history
    trainer.train()
    trainer.predict(EVALUATED, metric_key_prefix="eval")
    assert callback.history[-1]["step"] == 6
    assert len(callback.history) == 3


def test_evaluations_before_and_after_training(tmp_path):
    trainer = make_trainer(tmp_path)
    callback = watch(trainer)
    first = trainer.evaluate()
    trainer.train()
    assert [row["step"] for row in callback.history] == [0, 3, 6]
    last = trainer.evaluate()
    assert [row["step"] for row in callback.history] == [0, 3, 6, 6]
    assert last["eval_ntps/gain"] == pytest.approx(last["eval_ntps/score"] - first["eval_ntps/score"], abs=1e-12)


@pytest.mark.parametrize("data", [None, BESIDE], ids=["listening", "side set"])
def test_training_twice_is_two_runs(tmp_path, data):
    measured = Measured(EVALUATED if data is None else _ROWS)
    trainer = make_trainer(tmp_path, callbacks=[measured])
    callback = watch(trainer, data=data)
    trainer.train()
    trainer.train()
    assert [row["step"] for row in rows_of(trainer)] == [0, 3, 6], "TrainerState begins anew with each"
    check(rows_of(trainer)[0], measured.before)
    assert [row["step"] for row in callback.history] == [0, 3, 6]
    check(callback.history[-1], measured.found[-1])
