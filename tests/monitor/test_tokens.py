"""Which tokens count, in a loop of one's own: as if the others were not there, by the definition."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM, LlamaForSequenceClassification

from ntps_lightning import NextTokenPerceptionScore, NTPSMonitor, capture_representations
from ntps_lightning.errors import SetupError
from tests.support import oracle
from tests.support.models import CLASSES, HIDDEN, LAYERS, Padding, samples, tiny_config

K = 3


@pytest.fixture
def model():
    torch.manual_seed(0)
    return LlamaForSequenceClassification(tiny_config()).eval()


def batches(n=90, side="right", size=16):
    """Padded batches of three tokens and more, a part of which is chosen at random, with gaps; none beside the text."""
    generator = torch.Generator().manual_seed(1)
    rows = [row for row in samples(2 * n) if len(row[0]) > 2][:n]
    for start in range(0, n, size):
        batch = Padding(side)(rows[start : start + size])
        chosen = torch.rand(batch["input_ids"].shape, generator=generator) < 0.6
        yield batch | {"tokens": chosen | (batch["attention_mask"] == 0)}  # where there is padding, the mask wins


def inputs_of(batch):
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def show(monitor, model, shown, **options):
    for batch in shown:
        with torch.no_grad(), monitor.batch(batch["labels"], tokens=batch["tokens"], **options):
            model(**inputs_of(batch))


def expected(model, shown, layer, **options):
    """By the definition, of the hidden states that are captured where mask and tokens are both 1."""
    states, labels = [], []
    for batch in shown:
        with torch.no_grad(), capture_representations(model, layers=[layer]) as representations:
            model(**inputs_of(batch))
        mask = representations.attention_mask * batch["tokens"]
        for hidden, chosen, label in zip(representations[layer], mask.bool(), batch["labels"], strict=True):
            if chosen.any() and label >= 0:
                states.append(hidden[chosen].double().numpy())
                labels.append(int(label))
    return oracle.ntps(states, oracle.one_hot(labels, CLASSES), K, CLASSES - 1, ridge=0.1, **options), len(labels)


@pytest.mark.filterwarnings("ignore:.*have no token that")
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_every_layer_equals_the_oracle_of_the_chosen_tokens(model, side, pooling):
    shown, monitor = list(batches(side=side)), NTPSMonitor(model, layers="all", k=K, pooling=pooling)
    show(monitor, model, shown)
    whole = NTPSMonitor(model, layers="all", k=K, pooling=pooling)
    show(whole, model, [batch | {"tokens": torch.ones_like(batch["tokens"])} for batch in shown])
    for layer, details in monitor.compute().items():
        score, count = expected(model, shown, layer, pooling=pooling)
        assert details.score == pytest.approx(score, rel=1e-5)
        assert details.num_samples == count
        assert details.score != pytest.approx(whole.compute()[layer].score, rel=1e-3)
    assert monitor.samples_seen == 90


@pytest.mark.filterwarnings("ignore:.*have no token that")
@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.bfloat16])
@pytest.mark.parametrize("masks", [torch.bool, torch.float32])
def test_zeros_and_ones_of_every_dtype(model, dtype, masks):
    shown, plain, other = list(batches(48)), NTPSMonitor(model), NTPSMonitor(model)
    show(plain, model, shown)
    for batch in shown:
        mask, tokens = batch["attention_mask"], batch["tokens"].to(dtype)
        with torch.no_grad(), other.batch(batch["labels"], attention_mask=mask.to(masks), tokens=tokens):
            model(**inputs_of(batch))
    assert other.compute()[LAYERS].score == plain.compute()[LAYERS].score


def packed(batch, how):
    """The sequences of a padded batch in two rows or, with their lengths, in one; tokens in the layout of the rows."""
    mask = batch["attention_mask"].bool()
    lengths = mask.sum(1)
    ids, tokens = batch["input_ids"][mask], batch["tokens"][mask]
    positions = torch.cat([torch.arange(int(length)) for length in lengths])
    if how == "lengths":
        ends = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]).int()
        options = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends}
        return {"input_ids": ids[None], "position_ids": positions[None], **options}, tokens[None]
    half = int(lengths[: len(lengths) // 2].sum())
    rows = [[part[:half], part[half:]] for part in (ids, positions, torch.ones_like(ids), tokens)]
    ids, positions, mask, tokens = (nn.utils.rnn.pad_sequence(row, batch_first=True) for row in rows)
    return {"input_ids": ids, "position_ids": positions, "attention_mask": mask}, tokens


@pytest.mark.filterwarnings("ignore:.*have no token that")
@pytest.mark.parametrize("how", ["positions", "lengths"])
def test_packed_sequences_count_as_the_separate_ones(how):
    torch.manual_seed(0)
    model = LlamaForCausalLM(tiny_config(use_cache=False)).eval()
    shown, apart, together = list(batches()), NTPSMonitor(model, k=K), NTPSMonitor(model, k=K)
    show(apart, model, shown)
    for batch in shown:
        inputs, tokens = packed(batch, how)
        mask = inputs.pop("attention_mask", None)  # transformers looks for boundaries where there is no mask
        with torch.no_grad(), together.batch(batch["labels"], attention_mask=mask, tokens=tokens):
            model(**inputs)
    (details,) = together.compute().values()
    assert details.score == pytest.approx(apart.compute()[LAYERS].score, rel=1e-5)
    assert details.score == pytest.approx(expected(model, shown, LAYERS)[0], rel=1e-5)


def test_a_sample_without_a_chosen_token_is_left_out_and_said_once(model):
    """Beside samples that are left out for other reasons, which are not counted as such."""
    shown = list(batches(64))
    for batch in shown:
        batch["tokens"][:, 0] = True
        batch["tokens"][[1, 2, 3]] = False
        batch["tokens"][4] = batch["attention_mask"][4] == 0  # chosen in the padding alone
        batch["labels"][[2, 8]] = -100
    keep = torch.arange(16) != 3
    monitor = NTPSMonitor(model, k=K, num_classes=CLASSES)
    show(monitor, model, shown, sample_mask=keep)
    with pytest.warns(UserWarning, match="^8 samples have no token that `tokens=` chooses, and are left out"):
        (details,) = monitor.compute().values()
    score, count = expected(model, shown, LAYERS)
    assert details.num_samples == count == 64 - 4 * 5
    assert details.score == pytest.approx(score, rel=1e-5)
    monitor.reset()
    show(monitor, model, shown, sample_mask=keep)
    assert monitor.compute()[LAYERS].score == details.score, "a second warning would be an error here"


def test_no_sample_has_a_chosen_token(model):
    monitor = NTPSMonitor(model)
    show(monitor, model, [batch | {"tokens": torch.zeros_like(batch["tokens"])} for batch in batches(32)])
    monitor.check_seen()
    with pytest.raises(ValueError, match=r"no sample counts: .* or none has a token that `tokens=` chooses"):
        monitor.compute()


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.ones(16), r"tokens must be of shape \(N, T\), .* got torch.float32 \(16,\)"),
        (torch.ones(16, 9, 1), r"tokens must be of shape \(N, T\), .* got torch.float32 \(16, 9, 1\)"),
        ("words", r"tokens must be of shape \(N, T\), .* got a str"),
        (torch.full((16, 9), 2), "tokens must hold 1 .* and 0 .* alone, got other values"),
        (torch.full((16, 9), torch.nan), "tokens must hold 1 .* and 0 .* alone, got other values"),
        (torch.ones(16, 8), r"tokens must have the shape of the model's call, \(N, T\) = \(16, 9\), got \(16, 8\)"),
        (torch.ones(1, 9), r"tokens must have the shape of the model's call, \(N, T\) = \(16, 9\), got \(1, 9\)"),
    ],
)
def test_tokens_that_cannot_work_are_refused(model, tokens, message):
    monitor = NTPSMonitor(model)
    (batch,) = batches(16)
    with pytest.raises(SetupError, match=message):
        show(monitor, model, [batch | {"tokens": tokens}])
    with pytest.raises(ValueError, match=message):
        monitor.compute()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(16, 1), r"attention_mask must have the shape of the model's call, .* \(16, 9\), got \(16, 1\)"),
        (torch.full((16, 9), 2), "attention_mask must hold 1"),
        (torch.full((16, 9), -torch.inf), "attention_mask must hold 1"),
    ],
)
def test_the_mask_is_looked_at_beside_the_tokens(model, mask, message):
    (batch,) = batches(16)
    with pytest.raises(ValueError, match=message):
        show(NTPSMonitor(model), model, [batch], attention_mask=mask)


def test_padding_that_is_not_chosen_is_no_unmasked_padding(model):
    """Without a mask pad tokens count as text, which is warned of; not where `tokens` leave them out."""
    (batch,) = batches(16)
    text = batch["attention_mask"].bool()
    monitor = NTPSMonitor(model)
    with torch.no_grad(), monitor.batch(batch["labels"], tokens=text):
        model(input_ids=batch["input_ids"])
    assert monitor.compute()[LAYERS].num_samples == 16
    monitor.reset()
    warned = pytest.warns(UserWarning, match="begin or end in pad tokens")
    with warned, torch.no_grad(), monitor.batch(batch["labels"], tokens=torch.ones_like(text)):
        model(input_ids=batch["input_ids"])


def test_the_metrics_attention_mask_is_the_chosen_tokens(model):
    shown, monitor = list(batches(48)), NTPSMonitor(model, num_classes=CLASSES)
    metric = NextTokenPerceptionScore(HIDDEN, CLASSES)
    for batch in shown:
        batch["tokens"][:, -1] = batch["tokens"][:, 0] = True
        with torch.no_grad(), capture_representations(model) as representations:
            model(**inputs_of(batch))
        metric.update(representations[-1], batch["labels"], representations.attention_mask * batch["tokens"])
    show(monitor, model, shown)
    assert metric.details(whole_curve=False).score == monitor.compute()[LAYERS].score
