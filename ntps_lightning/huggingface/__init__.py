"""Hugging Face's Trainer, and all that is built on it: TRL, Axolotl, LLaMA-Factory, sentence-transformers."""

from ntps_lightning.huggingface.callback import NTPSTrainerCallback, watch

__all__ = ["NTPSTrainerCallback", "watch"]
