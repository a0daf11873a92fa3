"""Whatever a validation_step does with its model, the score is that of the plain pass over the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from packaging.version import Version
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.utils.data import DataLoader
from transformers import BatchEncoding, LlamaForCausalLM

from ntps_lightning import NTPSCallback, capture_representations
from ntps_lightning.capture.backbone import find_backbone
from tests.support.models import HIDDEN, LoraModule, Padding, Recording, loader, make_trainer, samples, tiny_config

SAME = "same score as the plain pass, to the bit"


def passes(row: str, note: str, *values: Any, slow: bool = False) -> Any:
    marks = [pytest.mark.compatibility("Passes", row, note), *([pytest.mark.slow] if slow else [])]
    return pytest.param(*values, id=row, marks=marks)


def run(tmp_path, module, data=None, epochs=1, **options):
    callback = NTPSCallback(**options)
    trainer = make_trainer(tmp_path, callbacks=[callback], max_epochs=epochs)
    trainer.fit(module, loader(), data or loader(60, seed=1))
    return callback.history


class Step(LoraModule):
    """A module whose validation step is given."""

    def __init__(self, step: Any) -> None:
        super().__init__()
        self.step = step

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.step(self.model, batch)


def checkpointed() -> LoraModule:
    module = LoraModule()
    module.model.enable_input_require_grads()
    module.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return module


def generating(model, batch):
    language_model = LlamaForCausalLM(model.config)
    language_model.model = model.base_model.model.model  # the very backbone that is scored
    language_model.generate(input_ids=batch["input_ids"], max_new_tokens=3, do_sample=False)
    model(**batch)


def reference_first(model, batch):
    with model.disable_adapter():
        model(**batch)
    model(**batch)


def several_calls(model, batch):
    model(input_ids=batch["input_ids"].flip(1), attention_mask=batch["attention_mask"])
    model(input_ids=batch["input_ids"][:1])
    model(**batch)
    model(**batch)


@pytest.mark.parametrize(
    "make",
    [
        passes("gradient checkpointing", SAME, checkpointed),
        passes("`use_cache=True`", SAME, lambda: Step(lambda m, b: m(**b, use_cache=True))),
        passes("`return_dict=False`", SAME, lambda: Step(lambda m, b: m(**b, return_dict=False))),
        passes("`generate()` before the pass", "left out; same score, to the bit", lambda: Step(generating)),
        passes(
            "a reference pass, adapters disabled", "left out; same score, to the bit", lambda: Step(reference_first)
        ),
        passes("several calls of the backbone", "the batch's own counts, once", lambda: Step(several_calls)),
        passes("`output_hidden_states=True`", SAME, lambda: Step(lambda m, b: m(**b, output_hidden_states=True))),
    ],
)
def test_the_plain_pass_counts(tmp_path, make):
    assert run(tmp_path, make()) == run(tmp_path, LoraModule())


@dataclass
class Item:
    input_ids: Tensor
    attention_mask: Tensor
    target: Tensor


def as_tuple(batch):
    return batch["input_ids"], batch["attention_mask"], batch["labels"]


def as_object(batch):
    return Item(*as_tuple(batch))


class Repacked(LoraModule):
    def __init__(self, unpack):
        super().__init__()
        self.unpack = unpack

    def training_step(self, batch, batch_idx):
        return super().training_step(self.unpack(batch), batch_idx)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        batch = self.unpack(batch)
        self.model(input_ids=batch["input_ids"].flip(1), attention_mask=batch["attention_mask"])  # not the batch's
        super().validation_step(batch, batch_idx)


def named(names):
    return dict(zip(("input_ids", "attention_mask", "labels"), names, strict=True))


@pytest.mark.parametrize(
    ("pack", "back", "labels"),
    [
        passes("batch is a tuple, labels by index", "same score, to the bit", as_tuple, named, 2),
        passes(
            "batch is an object, labels by attribute",
            "same score, to the bit",
            as_object,
            lambda b: named((b.input_ids, b.attention_mask, b.target)),
            "target",
        ),
        passes("batch is a BatchEncoding", "same score, to the bit", BatchEncoding, dict, "labels"),
        passes("batch is a dict, labels by key", "same score, to the bit", dict, dict, "labels"),
        passes("labels by a function", "same score, to the bit", dict, dict, lambda batch: batch["labels"]),
    ],
)
def test_batches_of_every_kind(tmp_path, pack, back, labels):
    def data(n, seed):
        return DataLoader(samples(n, seed), batch_size=16, collate_fn=lambda rows: pack(Padding()(rows)))

    callback = NTPSCallback(labels=labels)
    trainer = make_trainer(tmp_path, callbacks=[callback], max_epochs=1)
    trainer.fit(Repacked(back), data(90, 0), data(60, 1))
    assert callback.history == run(tmp_path, LoraModule())


@pytest.mark.parametrize(
    "side", [passes(f"padding on the {side}", "the definition, 1e-5", side) for side in ("left", "right")]
)
def test_padding_on_either_side(tmp_path, side):
    module = Recording()
    data = DataLoader(samples(60, 1), batch_size=16, collate_fn=Padding(side))
    history = run(tmp_path, module, data)
    assert history[1]["ntps/score"] == pytest.approx(module.score(1), rel=1e-5)


@pytest.mark.filterwarnings("ignore:the model is called without an attention_mask")
@pytest.mark.compatibility("Passes", "no mask", "every token counts; the definition, 1e-5")
def test_without_a_mask_every_token_counts(tmp_path):
    class Unmasked(Recording):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            everything = torch.ones_like(batch["attention_mask"])
            self.record(
                self.model(input_ids=batch["input_ids"], output_hidden_states=True),
                batch | {"attention_mask": everything},
            )

    module = Unmasked()
    history = run(tmp_path, module)
    assert history[1]["ntps/score"] == pytest.approx(module.score(1), rel=1e-5)


@pytest.mark.compatibility("Passes", "no mask, and pad tokens in the batch", "scored, with a warning that they count")
def test_padding_without_a_mask_is_flagged(tmp_path):
    with pytest.warns(UserWarning, match="begin or end in pad tokens: they count as text"):
        run(tmp_path, Step(lambda model, batch: model(input_ids=batch["input_ids"])))


@pytest.mark.compatibility("Not supported", "`validation_step(dataloader_iter)`", "`take (batch, batch_idx)`")
def test_a_dataloader_iter_shows_no_batch(tmp_path):
    class Iterating(LoraModule):
        def validation_step(self, dataloader_iter):
            batch, _, _ = next(dataloader_iter)
            self.model(**batch)

    with pytest.raises(ValueError, match=r"take \(batch, batch_idx\)"):
        run(tmp_path, Iterating())


class Masked4D(LoraModule):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        mask = batch["attention_mask"].bool()
        length = mask.shape[1]
        allowed = torch.ones(length, length, dtype=torch.bool).tril() & mask[:, None, None, :]
        self.model.base_model.model.model(input_ids=batch["input_ids"], attention_mask=allowed)


@pytest.mark.compatibility("Passes", "4D mask", "refused at the start without `attention_mask=`, scored with it")
def test_a_4d_mask_needs_the_padding_mask_of_the_batch(tmp_path):
    with pytest.raises(ValueError, match=r"not \(N, T\) but one of shape \(16, 1, 9, 9\); say where.*attention_mask="):
        run(tmp_path, Masked4D())
    history, plain = run(tmp_path, Masked4D(), attention_mask="attention_mask"), run(tmp_path, LoraModule())
    assert history[1]["ntps/score"] == pytest.approx(plain[1]["ntps/score"], rel=1e-4)


# Packed sequences


class CausalModule(LoraModule):
    """A bare causal LM, which can be fed packed rows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        # With a cache, transformers does not look for the boundaries.
        self.model = LlamaForCausalLM(tiny_config(use_cache=False))

    def training_step(self, batch, batch_idx):
        return self.model(input_ids=batch["input_ids"]).logits.square().mean()

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.model(**{name: value for name, value in batch.items() if name != "labels"})


def flattened(rows, *, positions=True, lengths=True):
    """All sequences of a batch in one row, as DataCollatorWithFlattening packs them."""
    ends = torch.tensor([0, *(len(tokens) for tokens, _ in rows)]).cumsum(0).int()
    batch = {
        "input_ids": torch.tensor([[token for tokens, _ in rows for token in tokens]]),
        "labels": torch.tensor([label for _, label in rows]),
    }
    if positions:
        batch["position_ids"] = torch.tensor([[t for tokens, _ in rows for t in range(len(tokens))]])
    if lengths:
        batch |= {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends}
    return batch


def packed_loader(**options):
    return DataLoader(samples(60, 1), batch_size=16, collate_fn=lambda rows: flattened(rows, **options))


@pytest.mark.parametrize(
    "options",
    [
        passes("packed, `position_ids` restart", "the score of the separate sequences, 1e-5", {"lengths": False}),
        passes("packed, `cu_seq_lens_q`", "the score of the separate sequences, 1e-5", {}),
    ],
)
def test_packed_sequences_score_as_the_separate_ones(tmp_path, options):
    packed, plain = run(tmp_path, CausalModule(), packed_loader(**options)), run(tmp_path, CausalModule())
    for row, expected in zip(packed, plain, strict=True):
        assert row == pytest.approx(expected, rel=1e-5, abs=1e-7)


@pytest.mark.compatibility(
    "Not supported", "packed sequences without boundaries", "names `position_ids`, `cu_seq_lens`"
)
def test_packed_sequences_without_boundaries_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"a call over 1 sequences was left out .*restarting position_ids or cu_seq_le"
    ):
        run(tmp_path, CausalModule(), packed_loader(positions=False, lengths=False))


# Compiled models


def compiled_whole(backend):
    module = LoraModule()
    module.model = torch.compile(module.model, backend=backend)
    return module


def compiled_in_place(backend):
    module = LoraModule()
    module.model.compile(backend=backend)
    return module


def compiled_and_called(backend):
    module = compiled_whole(backend)
    with torch.no_grad():
        module.model.eval()(**next(iter(loader())))
    module.train()
    return module


def compiled_layers(backend):
    module = LoraModule()
    for layer in module.model.base_model.model.model.layers:
        layer.compile(backend=backend)
    return module


def compiled_module(backend):
    return torch.compile(LoraModule(), backend=backend)


COMPILED = {
    "whole model": compiled_whole,
    "in place": compiled_in_place,
    "compiled and called before": compiled_and_called,
    "each layer": compiled_layers,
    "the LightningModule": compiled_module,
}


@pytest.mark.filterwarnings("ignore")  # torch warns of its own accesses while it traces, and tracing would fail of it
@pytest.mark.parametrize(
    ("make", "backend"),
    [
        passes(
            f"`torch.compile`, {name}, {backend}",
            "heard, and compiled as often as without the callback",
            make,
            backend,
            slow=backend == "inductor" or name != "the LightningModule",
        )
        for name, make in COMPILED.items()
        for backend in ("eager", "inductor")
    ],
)
def test_a_compiled_model_is_heard_and_not_compiled_again(tmp_path, make, backend):
    if make is compiled_module and Version(torch.__version__) < Version("2.7"):
        pytest.skip("torch 2.6 fails on Lightning's own log(), without the callback too")
    graphs = []
    for callbacks in ([], [NTPSCallback()]):
        torch._dynamo.reset()
        counters.clear()
        trainer = make_trainer(tmp_path, callbacks=callbacks, max_epochs=2, num_sanity_val_steps=-1)
        trainer.fit(make(backend), loader(), loader(60, seed=1))
        graphs.append(counters["stats"]["unique_graphs"])
    expected = run(tmp_path, LoraModule(), epochs=2)
    assert callbacks[0].history[0] == expected[0], "before the first step nothing differs"
    assert callbacks[0].history[-1] == pytest.approx(expected[-1], rel=1e-2)
    assert 0 < graphs[1] <= graphs[0]


# Modules of plain PyTorch


class Blocks(nn.Module):
    """A decoder of plain PyTorch, as people write them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(50, HIDDEN)
        layer = lambda: nn.TransformerEncoderLayer(HIDDEN, 2, 32, dropout=0.0, batch_first=True)  # noqa: E731
        self.blocks = nn.ModuleList([layer() for _ in range(3)])
        self.norm = nn.LayerNorm(HIDDEN)

    def forward(self, input_ids, attention_mask=None):
        states = [self.embed(input_ids)]
        padding = None if attention_mask is None else attention_mask == 0
        for block in self.blocks:
            states.append(block(states[-1], src_key_padding_mask=padding))
        self.states = [*states[:-1], self.norm(states[-1])]
        return self.states[-1]


class PlainModule(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.inner = nn.ModuleDict({"backbone": Blocks(), "head": nn.Linear(HIDDEN, 3)})

    def training_step(self, batch, batch_idx):
        hidden = self.inner["backbone"](batch["input_ids"], batch["attention_mask"])
        return nn.functional.cross_entropy(self.inner["head"](hidden.mean(1)), batch["labels"])

    validation_step = training_step

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


PLAIN = "every layer that its forward pass computes, to the bit"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            "inner.backbone", marks=pytest.mark.compatibility("Plain PyTorch", '`model="inner.backbone"`', PLAIN)
        ),
        pytest.param("", marks=pytest.mark.compatibility("Plain PyTorch", "`model=module.inner.backbone`", PLAIN)),
    ],
)
def test_modules_of_plain_pytorch(tmp_path, name):
    module = PlainModule()
    history = run(tmp_path, module, model=name or module.inner["backbone"], layers="all")
    assert {key for key in history[0] if key.endswith("/score")} == {
        "ntps/score",
        *(f"ntps_layers/{i:02d}/score" for i in range(4)),
    }
    backbone = module.inner["backbone"].eval()
    batch = next(iter(loader()))
    with capture_representations(backbone, layers="all") as representations:
        backbone(batch["input_ids"], batch["attention_mask"])
    assert all(torch.equal(representations[i], state) for i, state in enumerate(backbone.states))


def test_layers_of_nested_tensors_are_left_alone():
    layer = nn.TransformerEncoderLayer(HIDDEN, 2, 32, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2).eval()
    hidden, padding = torch.randn(4, 7, HIDDEN), torch.zeros(4, 7, dtype=torch.bool)
    padding[1, 4:] = True
    with torch.no_grad(), capture_representations(encoder) as representations:
        output = encoder(hidden, src_key_padding_mask=padding)
    assert torch.equal(representations[-1], output)
    assert torch.equal(representations.attention_mask, ~padding)
    with pytest.raises(ValueError, match="for the 0 layers of TransformerEncoder"):
        find_backbone(encoder, encoder).resolve([1])
