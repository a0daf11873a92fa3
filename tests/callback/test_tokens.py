"""Which tokens count, in real Trainer runs over the batches of a causal language model."""

from __future__ import annotations

import functools
import warnings

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import LlamaForCausalLM

from ntps_lightning import NTPSCallback
from ntps_lightning.errors import SetupError
from tests.support import oracle
from tests.support.models import CLASSES, HIDDEN, LoraModule, Padding, make_trainer, samples, tiny_config

INSTRUCTION = [7, 8, 9]


def tokens_count(row: str, note: str):
    return pytest.mark.compatibility("Passes", row, note)


def instructed(rows):
    """Instruction tuning: the prompt is a fixed instruction and half the text, with token labels of -100."""
    batch = Padding()([(INSTRUCTION + tokens, label) for tokens, label in rows])
    token_labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    for row, (tokens, _) in zip(token_labels, rows, strict=True):
        row[: len(INSTRUCTION) + len(tokens) // 2] = -100
    return {**batch, "labels": token_labels, "label": batch["labels"]}


def data(n=60, collate=instructed):
    return DataLoader([row for row in samples(2 * n, 1) if len(row[0]) > 2][:n], batch_size=16, collate_fn=collate)


class Instructed(LoraModule):
    """Trains on the answers alone, and keeps the hidden states of the last validation, for the oracle."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model = LlamaForCausalLM(tiny_config(use_cache=False))

    def training_step(self, batch, batch_idx):
        return self.validation_step(batch, batch_idx)

    def on_validation_epoch_start(self):
        self.seen = []

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        known = {name: value for name, value in batch.items() if name not in ("label", "mine")}
        output = self.model(**known, output_hidden_states=True)
        if not self.training:
            self.seen.append((output.hidden_states[-1].double().numpy(), batch))
        return output.loss


def fit(tmp_path, callback, loader=None, module=None, **options):
    module = module or Instructed()
    trainer = make_trainer(tmp_path, callbacks=[callback], **{"max_epochs": 1} | options)
    trainer.fit(module, data(), loader or data())
    return module


def expected(module, chosen, k=3):
    """By the definition, of the last validation's states where ``chosen`` and the mask say so."""
    states, labels = [], []
    for hidden, batch in module.seen:
        rows = (chosen(batch).long() * batch["attention_mask"]).bool().numpy()
        states += [x[row] for x, row in zip(hidden, rows, strict=True) if row.any()]
        labels += batch["label"][torch.from_numpy(rows.any(1))].tolist()
    return oracle.ntps(states, oracle.one_hot(labels, CLASSES), k, CLASSES - 1, ridge=0.1)


def every_second(batch):
    return torch.arange(batch["input_ids"].shape[1]).expand(batch["input_ids"].shape) % 2


CASES = {
    "supervised": lambda batch: batch["labels"] != -100,
    "prompt": lambda batch: batch["labels"] == -100,
    every_second: every_second,
}


@pytest.mark.parametrize(
    "tokens",
    [
        pytest.param(
            tokens,
            marks=tokens_count(f"`tokens={getattr(tokens, '__name__', repr(tokens))}`", "the definition, 1e-5"),
            id=str(getattr(tokens, "__name__", tokens)),
        )
        for tokens in CASES
    ],
)
def test_the_batches_of_a_causal_language_model(tmp_path, tokens):
    callback = NTPSCallback(labels="label", tokens=tokens, k=3)
    module = fit(tmp_path, callback)
    assert callback.history[-1]["ntps/score"] == pytest.approx(expected(module, CASES[tokens]), rel=1e-4)
    everything = expected(module, lambda batch: torch.ones_like(batch["input_ids"]))
    assert callback.history[-1]["ntps/score"] != pytest.approx(everything, rel=1e-2)
    assert callback.history[-1]["ntps_info/samples_per_dim"] == 60 / HIDDEN


def test_tokens_by_key(tmp_path):
    named = NTPSCallback(labels="label", tokens="mine")
    fit(tmp_path, named, data(collate=lambda rows: (batch := instructed(rows)) | {"mine": every_second(batch)}))
    function = NTPSCallback(labels="label", tokens=every_second)
    fit(tmp_path, function)
    assert named.history == function.history


def flattened(rows):
    """All sequences of a batch in one row, as DataCollatorWithFlattening packs them."""
    separate = instructed(rows)
    mask = separate["attention_mask"].bool()
    batch = {name: separate[name][mask][None] for name in ("input_ids", "labels")}
    positions = torch.arange(mask.shape[1]).expand(mask.shape)[mask][None]
    return {**batch, "position_ids": positions, "label": separate["label"]}


@tokens_count("packed, `tokens='supervised'`", "the score of the separate sequences, 1e-5")
def test_packed_batches_of_a_causal_language_model(tmp_path):
    packed, apart = (NTPSCallback(labels="label", tokens="supervised") for _ in range(2))
    fit(tmp_path, packed, data(collate=flattened))
    fit(tmp_path, apart)
    for row, wanted in zip(packed.history, apart.history, strict=True):
        assert row == pytest.approx(wanted, rel=1e-5)


def some_unanswered(rows):
    batch = instructed(rows)
    batch["labels"][[0, 3]] = -100
    return batch


@tokens_count("samples without a chosen token", "left out, and said once a run; the definition, 1e-5")
def test_samples_without_a_chosen_token_are_left_out_and_said_once_a_run(tmp_path):
    callback = NTPSCallback(labels="label", tokens="supervised", k=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module = fit(tmp_path, callback, data(collate=some_unanswered), max_epochs=2)
    messages = [str(warning.message) for warning in caught if "no token that" in str(warning.message)]
    assert len(messages) == 1 < len(callback.history)
    assert messages[0].startswith("8 samples have no token that `tokens=` chooses")
    assert callback.history[-1]["ntps_info/samples_per_dim"] == 52 / HIDDEN
    assert callback.history[-1]["ntps/score"] == pytest.approx(expected(module, CASES["supervised"]), rel=1e-4)
    with pytest.warns(UserWarning, match="8 samples have no token"):  # another run is told anew
        fit(tmp_path, callback, data(collate=some_unanswered))


def test_no_sample_has_a_chosen_token(tmp_path):
    callback = NTPSCallback(labels="label", tokens="supervised")
    nowhere = data(collate=lambda rows: instructed(rows) | {"labels": torch.full((len(rows), 12), -100)})
    with pytest.warns(UserWarning, match=r"no sample counts: .* or none has a token that `tokens=` chooses"):
        fit(tmp_path, callback, nowhere, Unlabelled())
    assert [row["ntps_info/valid"] for row in callback.history] == [0]


def without(name):
    return lambda rows: {key: value for key, value in instructed(rows).items() if key != name}


class Unlabelled(Instructed):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return self.model(batch["input_ids"], batch["attention_mask"]).logits.square().mean()


@pytest.mark.parametrize(
    ("tokens", "collate", "message"),
    [
        ("prompt", without("labels"), r'tokens="prompt" reads token labels, .* it found NoneType\. Say which'),
        ("supervised", lambda r: instructed(r) | {"labels": torch.zeros(len(r)).long()}, r"found torch.int64 \(16,\)"),
        ("supervised", lambda r: instructed(r) | {"labels": torch.rand(len(r), 5)}, r"found torch.float32 \(16, 5\)"),
        (
            "supervised",
            lambda r: instructed(r) | {"labels": torch.zeros(len(r), 5).long()},
            r"tokens must have the sha",
        ),
        ("mine", instructed, r"found no tokens at 'mine' in a batch that is a dict .* with tokens=\.\.\."),
        (lambda batch: batch["label"], instructed, r"tokens must be of shape \(N, T\)"),
        (lambda batch: batch["input_ids"], instructed, "tokens must hold 1"),
    ],
)
def test_tokens_that_cannot_be_found_are_refused_at_the_start(tmp_path, tokens, collate, message):
    with pytest.raises(SetupError, match=message):
        fit(tmp_path, NTPSCallback(labels="label", tokens=tokens), data(collate=collate), Unlabelled())


class Answers:
    def __call__(self, batch):
        return batch["labels"] != -100


def test_a_checkpoint_of_other_tokens_starts_a_new_history(tmp_path):
    state = NTPSCallback(tokens="prompt").state_dict()["sets"]["ntps"] | {"history": [{"step": 1}]}
    again = NTPSCallback(tokens="prompt")
    again.load_state_dict(state)
    assert again.history == [{"step": 1}]
    changed = NTPSCallback(tokens=every_second)
    with pytest.warns(UserWarning, match=r"measured with tokens=prompt \(now every_second\): it starts anew"):
        changed.load_state_dict(state)
    assert changed.history == []


def test_a_checkpoint_from_before_there_were_tokens_is_gone_on_with():
    state = NTPSCallback().state_dict()["sets"]["ntps"] | {"history": [{"step": 1}]}
    del state["definition"]["tokens"]
    callback = NTPSCallback()
    callback.load_state_dict(state)
    assert callback.history == [{"step": 1}]
    with pytest.warns(UserWarning, match=r"tokens=None \(now supervised\)"):
        NTPSCallback(tokens="supervised").load_state_dict(state)


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (None, "None"),
        ("mine", "mine"),
        (2, "2"),
        (every_second, "every_second"),
        (functools.partial(every_second), "every_second"),
        (Answers(), "Answers"),
        (Answers().__call__, "Answers.__call__"),
    ],
)
def test_what_checkpoints_keep_is_the_same_text_in_every_process(tokens, text):
    assert NTPSCallback(tokens=tokens).state_dict()["sets"]["ntps"]["definition"]["tokens"] == text
