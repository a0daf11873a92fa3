"""The oracle on real hidden states: SmolLM2-135M reads BBC news, attention sink and all."""

from __future__ import annotations

import logging

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples import offline
from ntps_lightning import NextTokenPerceptionScore, NTPSMonitor, capture_representations
from ntps_lightning.functional import prefix_sums
from tests.support import oracle

LAYERS = (0, 15, 30)


def nearest_tensorfloat32(rows):
    """Float32 numbers with the 10 bits of mantissa that TensorFloat32 products take of them, to the nearest even."""
    bits = rows.contiguous().view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_pretrained_decoder_does_not_look_ahead(dtype, caplog):
    caplog.set_level(logging.INFO, "torchmetrics")
    NTPSMonitor(AutoModelForCausalLM.from_pretrained(offline.smollm2(), dtype=dtype))
    assert "could not try" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["highest", "high"])
def test_metric_equals_the_oracle_on_real_text(monkeypatch, precision):
    """From 213 samples in float32 to 1e-4 of their value; with products as TensorFloat32 takes them, to 1e-3."""
    tolerance = {"abs": 1e-6, "rel": 1e-4}
    if precision == "high":
        tolerance, add_products = {"abs": 1e-3}, prefix_sums._add_products
        monkeypatch.setattr(
            prefix_sums,
            "_add_products",
            lambda blocks, rows: add_products(blocks, rows.copy_(nearest_tensorfloat32(rows))),
        )
    path = offline.smollm2()
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.pad_token = tokenizer.eos_token
    texts, names = offline.bbc_news()
    texts, names = texts[::10], names[::10]
    labels = torch.tensor([sorted(set(names)).index(name) for name in names])
    model = AutoModelForCausalLM.from_pretrained(path).eval()
    metrics = {layer: NextTokenPerceptionScore(576, 5) for layer in LAYERS}
    samples = {layer: [] for layer in LAYERS}
    for start in range(0, len(texts), 16):
        part = slice(start, start + 16)
        batch = tokenizer(texts[part], padding=True, truncation=True, max_length=32, return_tensors="pt")
        with torch.no_grad(), capture_representations(model, LAYERS) as representations:
            model(**batch)
        for layer, states in representations.items():
            metrics[layer].update(states, labels[part], representations.attention_mask)
            samples[layer] += [
                x[m.bool()].double().numpy() for x, m in zip(states, batch["attention_mask"], strict=True)
            ]
    for layer, metric in metrics.items():
        actual = metric.details()
        for k in (1, 12, 60, 288):
            expected = oracle.ntps(samples[layer], oracle.one_hot(labels, 5), k, rank=4, ridge=0.1)
            assert float(actual.curve[k - 1]) == pytest.approx(expected, **tolerance), (layer, k)
            expected = oracle.captured(samples[layer], oracle.one_hot(labels, 5), k, rank=4, ridge=0.1)
            assert float(actual.captured_in_sample_curve[k - 1]) == pytest.approx(expected, **tolerance), (layer, k)
