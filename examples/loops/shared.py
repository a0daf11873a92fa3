"""What the three loops finetune, SmolLM2-135M with LoRA on the sections of BBC news, and the line that they print."""

import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

from examples import offline
from ntps_lightning import NTPSDetails


def smollm2_on_bbc_news():
    """A model, and the loaders of its training and validation: 240 and 601 beginnings of articles."""
    torch.manual_seed(0)  # every process begins with the same weights and the same split
    path = offline.smollm2()
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.pad_token = tokenizer.eos_token
    texts, names = offline.bbc_news()
    classes = sorted(set(names))
    ids = tokenizer(texts, truncation=True, max_length=24)["input_ids"]
    rows = [{"input_ids": ids[i], "labels": classes.index(names[i])} for i in torch.randperm(len(texts)).tolist()]
    loaders = [
        DataLoader(part, batch_size=8, shuffle=shuffle, collate_fn=DataCollatorWithPadding(tokenizer))
        for part, shuffle in ((rows[:240], True), (rows[-601:], False))
    ]
    options = {"num_labels": len(classes), "pad_token_id": tokenizer.pad_token_id}
    model = AutoModelForSequenceClassification.from_pretrained(path, **options)
    top = list(range(24, 30))  # the layers that carry adapters
    return get_peft_model(model, LoraConfig(r=8, layers_to_transform=top, task_type="SEQ_CLS")), *loaders


def share_of(loader):
    """A rank's share, as Fabric and Lightning's Trainer make it."""
    sampler = DistributedSampler(loader.dataset, shuffle=isinstance(loader.sampler, RandomSampler))
    return DataLoader(loader.dataset, loader.batch_size, sampler=sampler, collate_fn=loader.collate_fn)


def line(epoch: int, details: NTPSDetails) -> str:
    """What a linear probe reads held out, of the whole state and of the leading autoregressive directions."""
    found = details.held_out
    if found is None:
        return f"epoch {epoch}: nothing held out: {details.not_held_out}"
    numbers = {"probe accuracy": found.probe_accuracy, "captured R²": found.captured_r2}
    return f"epoch {epoch}: " + ", ".join(f"{name} {each.value:.3f} ± {each.se:.3f}" for name, each in numbers.items())
