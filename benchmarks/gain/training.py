"""One run of LoRA in all blocks."""

import torch
from peft import get_peft_model
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.gain.settings import Scale
from benchmarks.gain.texts import Texts, Tokens
from benchmarks.study.training.backbones import backbone
from benchmarks.study.training.classifier import adapters
from benchmarks.study.training.states import DEVICE, masked_mean
from benchmarks.study.training.steps import stages

BATCH = 500


class Classifier(nn.Module):
    """The whole model with LoRA, mean pooling and a linear head; on CUDA all but the head is in bfloat16."""

    def __init__(self, model: str, scale: Scale, num_classes: int, seed: int):
        super().__init__()
        self.base = backbone(model)
        torch.manual_seed(seed)
        get_peft_model(self.base, adapters(scale.lora_rank))
        self.head = nn.Linear(self.base.config.hidden_size, num_classes)

    def forward(self, ids, mask):
        # A graph allows no cache of cast weights; frozen ones are never in it.
        with torch.autocast("cuda", torch.bfloat16, enabled=ids.is_cuda, cache_enabled=False):
            hidden = self.base(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return self.head(masked_mean(hidden.float(), mask))


def graphed(model: Classifier, texts: Tokens, scale: Scale):
    """The same module; training passes are CUDA graphs, which launch thousands of kernels at once."""
    model.train()
    sample = texts.batch(list(range(scale.batch_size)))
    try:
        return torch.cuda.make_graphed_callables(model, sample)
    except RuntimeError as error:
        raise RuntimeError(
            "the training step cannot be captured as CUDA graphs; --eager does without, slower"
        ) from error


def run_row(model: str, texts: Texts, scale: Scale, seed: int, progress, *, eager: bool = False) -> dict:
    """Accuracies of a run, at every evaluation and at the one that validation accuracy chooses."""
    train, validation = texts.held_back(scale)
    classifier: nn.Module = Classifier(model, scale, texts.num_classes, seed).to(DEVICE)
    graphs = DEVICE.type == "cuda" and not eager
    if graphs:
        classifier = graphed(classifier, train, scale)
    steps_per_epoch = len(train) // scale.batch_size

    def evaluate(epoch: float) -> dict:
        classifier.eval()
        return read(classifier, validation, "val") | read(classifier, texts.test, "test")

    due = [round(scale.steps * part / scale.evaluations) for part in range(1, scale.evaluations + 1)]
    found = stages(
        classifier,
        train,
        train.labels,
        evaluate,
        [step / steps_per_epoch for step in due],
        learning_rate=scale.learning_rate,
        batch_size=scale.batch_size,
        seed=seed,
        progress=progress,
    )
    return {
        "num_trained": len(train),
        "num_validation": len(validation),
        "graphs": graphs,
        "stages": found,
        "step": chosen(found)["step"],
        "accuracy": chosen(found)["test_accuracy"],
        "last_accuracy": found[-1]["test_accuracy"],
    }


def chosen(found: list[dict]) -> dict:
    """The evaluation of the highest validation accuracy, the earliest of equals."""
    return max(found, key=lambda stage: stage["val_accuracy"])


@torch.no_grad()
def read(classifier: nn.Module, windows: Tokens, name: str) -> dict[str, float]:
    """Loss and accuracy."""
    parts = torch.arange(len(windows)).split(BATCH)
    logits = torch.cat([classifier(*windows.batch(part)) for part in parts])
    right = (logits.argmax(1) == windows.labels).double()
    return {f"{name}_loss": float(cross_entropy(logits, windows.labels)), f"{name}_accuracy": float(right.mean())}
