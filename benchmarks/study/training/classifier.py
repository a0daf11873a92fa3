"""The model that LoRA changes: the top blocks, mean pooling and a linear head."""

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from benchmarks.study.settings import Job, Scale
from benchmarks.study.training.backbones import backbone, keep_top
from benchmarks.study.training.states import hidden_states, listen_before_norm, masked_mean


def adapters(rank: int) -> LoraConfig:
    """LoRA on q, k and v, with alpha = r."""
    return LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.05, target_modules=["q_proj", "k_proj", "v_proj"])


class Classifier(nn.Module):
    """The top blocks, mean pooling and a linear head."""

    def __init__(self, job: Job, scale: Scale, num_classes: int):
        super().__init__()
        base = backbone(job.model, seed=job.seed if job.weights == "random" else None)
        self.depth = len(base.layers)
        self.blocks = keep_top(base, self.depth - job.top_blocks if job.top_blocks else 0)
        self.before_norm = listen_before_norm(self.blocks)
        torch.manual_seed(job.seed)
        if job.trained == "full":
            self.blocks.requires_grad_(True)
        else:
            self.wrapped = get_peft_model(self.blocks, adapters(scale.lora_rank))
        self.head = nn.Linear(base.config.hidden_size, num_classes)

    def layers(self, trunk, mask):
        """States of the trained layers, named by their number in the whole model, -1 after the final norm."""
        states = hidden_states(self.blocks, self.before_norm, inputs_embeds=trunk, attention_mask=mask)
        first = self.depth - len(self.blocks.layers)
        return {first + layer if isinstance(layer, int) and layer >= 0 else layer: s for layer, s in states.items()}

    def last(self, trunk, mask):
        """States after the final norm."""
        self.before_norm.clear()
        return self.blocks(inputs_embeds=trunk, attention_mask=mask, use_cache=False).last_hidden_state

    def forward(self, trunk, mask):
        return self.head(masked_mean(self.last(trunk, mask), mask))
