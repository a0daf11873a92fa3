"""Windows of packaged texts, as the demo cuts them, and SmolLM2's hidden states of them."""

import torch
from torch.utils.data import DataLoader
from transformers import AutoModel, AutoTokenizer, DataCollatorWithPadding

from benchmarks.helpers.progress import doing
from benchmarks.study.texts.readers import read
from examples import offline
from examples.finetune_lora import windows
from ntps_lightning import capture_representations

WINDOW = 24


def split(name, sizes, seed=0):
    """Windows of a packaged set for each of ``sizes``, no text in two of them, and the number of classes."""
    texts, labels = zip(*read(name), strict=True)
    classes = sorted(set(labels))
    tokenizer = smollm2_tokenizer()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(texts), generator=generator).tolist()
    ends = [round(len(order) * sum(sizes[: i + 1]) / sum(sizes)) for i in range(len(sizes))]
    parts = []
    for start, end, size in zip([0, *ends], ends, sizes, strict=False):
        part = order[start:end]
        chosen = [classes.index(labels[i]) for i in part]
        found = windows(tokenizer, [texts[i] for i in part], chosen, WINDOW, size, generator)
        if len(found) < size:
            raise ValueError(f"{name} has {len(found)} windows of {len(part)} texts, {size} are asked for")
        parts.append(found)
    return parts, len(classes)


def smollm2_tokenizer():
    tokenizer = AutoTokenizer.from_pretrained(offline.smollm2())
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def smollm2(blocks=None):
    """The model, in float32; its first blocks alone, where no more are needed."""
    model = AutoModel.from_pretrained(offline.smollm2(), dtype=torch.float32).eval()
    if blocks is not None:
        model.layers = model.layers[:blocks]
        model.config.num_hidden_layers = blocks
    return model


def batches(model, data, layers, what, size=50):
    """For each batch the states of the layers, mask, labels and texts."""
    loader = DataLoader(data, batch_size=size, collate_fn=DataCollatorWithPadding(smollm2_tokenizer()))
    for i, batch in enumerate(loader):
        if i % 10 == 0:
            doing(f"{what}: hidden states of windows {i * size} to {len(data)}")
        mask = batch["attention_mask"]
        with torch.no_grad(), capture_representations(model, layers) as states:
            model(input_ids=batch["input_ids"], attention_mask=mask, use_cache=False)
        yield {layer: states[layer] for layer in layers}, mask, batch["labels"], batch["article"]


def pooled(states, mask):
    """``(N, d)`` means over valid tokens."""
    chosen = mask[:, :, None]
    return (states * chosen).sum(1) / chosen.sum(1)
