"""The two language models before and during LoRA: their hidden states, as moments and pooled."""
