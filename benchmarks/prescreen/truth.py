"""What a probe that is trained on the same texts reads of other texts, at every layer."""

import base64

import numpy
import torch

from benchmarks.decisions.measures import losses, ridge_probe
from benchmarks.prescreen.settings import LENGTH
from benchmarks.prescreen.texts import split
from benchmarks.study.training.backbones import backbone, tokenizer
from benchmarks.study.training.states import by_length, masked_mean


def layers(model: str, data: str, measured: int, tested: int) -> dict:
    """By layer R² and accuracy on the other texts, and which of them it has right."""
    texts = split(data, measured, tested)
    sides = (texts.measured, texts.tested)
    decoder, reader = backbone(model), tokenizer(model)
    train, test = (pooled(decoder, reader, [text for text, _ in side]) for side in sides)
    y_train, y_test = (numpy.array([label for _, label in side]) for side in sides)
    found = {}
    for layer, (seen, other) in enumerate(zip(train, test, strict=True)):
        pairs = (seen, y_train), (other, y_test)
        probe = ridge_probe(*pairs[0], texts.num_classes)
        errors, spread, hits = losses(probe, *pairs, texts.num_classes)
        r2 = float(1 - errors.sum() / spread.sum())
        found[layer] = {"r2": r2, "accuracy": float(hits.mean()), "hits": packed(hits)}
    return {"layers": found, "num_tested": len(y_test), "num_measured": len(y_train), "num_classes": texts.num_classes}


@torch.no_grad()
def pooled(decoder, reader, texts: list[str]) -> list[torch.Tensor]:
    """Of each layer ``(N, d)`` means over the tokens that prescreening sees."""
    lengths = [len(ids) for ids in reader(texts, truncation=True, max_length=LENGTH)["input_ids"]]
    found: list[torch.Tensor] = []
    for batch in by_length(lengths, range(len(texts))):
        some = [texts[i] for i in batch]
        inputs = reader(some, truncation=True, max_length=LENGTH, padding=True, return_tensors="pt")
        mask = inputs["attention_mask"]
        states = decoder(input_ids=inputs["input_ids"], attention_mask=mask, output_hidden_states=True).hidden_states
        found = found or [torch.zeros(len(texts), state.shape[-1]) for state in states]
        for kept, state in zip(found, states, strict=True):
            kept[batch] = masked_mean(state, mask)
    return found


def packed(hits) -> str:
    """Bits as text, so that rows are short."""
    return base64.b64encode(numpy.packbits(numpy.asarray(hits, dtype=bool)).tobytes()).decode()


def unpacked(text: str, count: int) -> numpy.ndarray:
    """``count`` of them, as numbers."""
    return numpy.unpackbits(numpy.frombuffer(base64.b64decode(text), dtype=numpy.uint8))[:count].astype(float)
