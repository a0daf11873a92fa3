"""Calls that are made again with the weights of before, in a loop of one's own: exact, and without a trace."""

from __future__ import annotations

import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaForSequenceClassification

from ntps_lightning import NTPSMonitor
from ntps_lightning.capture.backbone import find_backbone
from ntps_lightning.capture.own_pass import own_pass
from ntps_lightning.monitor.replay import Replay
from tests.support.models import hooks_on, loader, tiny_config


class Changing(nn.Module):
    """Changes all that a module may hold, and draws every kind of random number."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("rebound", torch.zeros(3))
        self.register_buffer("popped", torch.ones(2), persistent=False)
        self.generator = torch.Generator().manual_seed(1)
        self.count, self.flag, self.items, self.names, self.seen = 0, True, [1], {"a": 1}, {1}

    def forward(self, fail: bool) -> None:
        torch.rand(2), np.random.rand(), random.random()
        torch.rand(2, generator=self.generator)
        self.rebound, self.count, self.flag, self.new = torch.ones(3), self.count + 1, False, 1
        del self.popped
        self.items += [2]
        self.names["a"], self.names["b"] = 2, 3
        self.seen.add(2)
        self.train()
        if fail:
            raise ZeroDivisionError


def everything(module: Changing):
    containers = list(module.items), dict(module.names), set(module.seen)
    numbers = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()
    flags = module.count, module.flag, hasattr(module, "new"), [m.training for m in module.modules()]
    return *containers, *numbers, *flags, module.generator.get_state().tolist(), list(module.state_dict())


@pytest.mark.parametrize("fail", [False, True])
def test_a_pass_of_our_own_leaves_no_trace(fail):
    module = Changing().eval()
    buffers, before = dict(module.named_buffers()), everything(module)
    with pytest.raises(ZeroDivisionError) if fail else nullcontext(), own_pass(module):
        assert not torch.is_grad_enabled()
        assert torch._dynamo.eval_frame._stance.stance == "force_eager"
        module(fail)
    assert everything(module) == before
    assert all(now is buffers[name] for name, now in module.named_buffers())
    assert torch._dynamo.eval_frame._stance.stance == "default"
    assert torch.is_grad_enabled()


def test_a_pass_of_our_own_makes_no_inference_tensors():
    module = Changing()
    with torch.inference_mode(), own_pass(module):
        assert not torch.ones(2).is_inference()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return LlamaForSequenceClassification(tiny_config()).eval()


def train(model, steps: int = 2) -> None:
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for batch, _ in zip(loader(), range(steps), strict=False):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def record(monitor, call_model, batch):
    """The call that a monitored batch takes."""
    monitored = monitor.batch(batch["labels"], input_ids=batch["input_ids"])
    monitored.record()
    with torch.no_grad(), monitored:
        call_model(**batch)
    return monitored.call


class Output:
    """The hidden states that a model returns while it is listened to."""

    def __init__(self, model: nn.Module) -> None:
        self.decoder, self.states = find_backbone(model).decoder, torch.empty(0)

    def __enter__(self):
        self.handle = self.decoder.register_forward_hook(self.take)

    def take(self, module, args, output):
        self.states = output.last_hidden_state.clone()

    def __exit__(self, *error):
        self.handle.remove()


def states(model, batch):
    with torch.no_grad(), (output := Output(model)):
        model(**batch)
    return output.states


def test_a_call_is_made_again_with_the_weights_of_before(model):
    batch = next(iter(loader()))
    expected, replay, monitor = states(model, batch), Replay(find_backbone(model), model), NTPSMonitor(model)
    train(model)
    trained, hooks = states(model, batch), hooks_on(model)
    graph = model(**batch).loss
    where = [(p.data_ptr(), p._version) for p in model.parameters()]
    call = record(monitor, model, batch)
    output = Output(model)
    assert replay.repeat(call, output) == ""
    assert torch.equal(output.states, expected)
    assert not torch.equal(trained, expected)
    assert torch.equal(states(model, batch), trained)
    assert [(p.data_ptr(), p._version) for p in model.parameters()] == where
    assert hooks_on(model) == hooks
    graph.backward()  # nothing that it goes back through was changed


class Stop(nn.Module):
    """Fails on demand."""

    now = False

    def forward(self, hidden_states):
        return hidden_states * (1 // (not self.now))


def test_the_weights_come_back_from_a_call_that_fails(model):
    stop = Stop()
    model.model.norm = nn.Sequential(model.model.norm, stop)
    batch = next(iter(loader()))
    replay, monitor = Replay(find_backbone(model), model), NTPSMonitor(model)
    train(model)
    trained, call = states(model, batch), record(monitor, model, batch)
    stop.now = True
    with pytest.raises(ZeroDivisionError):
        replay.repeat(call, nullcontext())
    stop.now = False
    assert torch.equal(states(model, batch), trained)


def test_casts_of_other_weights_are_not_used(model):
    """Autocast keeps them by tensor: a run that is inside of it as a whole would see them go stale."""
    batch = next(iter(loader()))
    with torch.autocast("cpu", torch.bfloat16):
        expected = states(model, batch)
    replay, monitor = Replay(find_backbone(model), model), NTPSMonitor(model)
    train(model)
    with torch.autocast("cpu", torch.bfloat16):
        trained = states(model, batch)
        output = Output(model)
        assert replay.repeat(record(monitor, model, batch), output) == ""
        assert torch.equal(output.states, expected)
        assert torch.equal(states(model, batch), trained)


def test_hooks_that_change_the_arguments_change_them_once(model):
    model.register_forward_pre_hook(
        lambda m, args, kw: (args, kw | {"input_ids": kw["input_ids"] // 2}), with_kwargs=True
    )
    batch = next(iter(loader()))
    expected, replay = states(model, batch), Replay(find_backbone(model), model)
    train(model)
    monitored = NTPSMonitor(model).batch(batch["labels"])
    monitored.record()
    with torch.no_grad(), monitored:
        model(**batch)
    output = Output(model)
    assert replay.repeat(monitored.call, output) == ""
    assert torch.equal(output.states, expected)


class Table(nn.Module):
    """Keeps a large table, and makes another from weights when it is first called."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.scale, self.cache = norm, nn.Parameter(torch.ones(16)), None
        self.register_buffer("table", torch.ones(2**19))

    def forward(self, hidden_states):
        if self.cache is None:
            self.cache = self.scale.detach() * 2
        return self.norm(hidden_states) * self.cache * self.table[0]


def test_what_was_made_of_weights_is_made_again(model):
    model.model.norm = Table(model.model.norm)
    batch = next(iter(loader()))
    replay, monitor = Replay(find_backbone(model), model), NTPSMonitor(model)
    with torch.no_grad():
        model.model.norm.scale.mul_(3)
    trained, call, output = states(model, batch), record(monitor, model, batch), Output(model)
    assert replay.repeat(call, output) == ""
    assert torch.equal(output.states * 3, trained)
    assert torch.equal(states(model, batch), trained)
    model.model.norm.table.mul_(1)
    assert replay.repeat(call, output) == "a large buffer of the model was changed in place"


def test_no_call_and_another_model_are_refused(model):
    batch = next(iter(loader()))
    replay = Replay(find_backbone(model), model)
    assert replay.repeat(None, nullcontext()) == "no call of the model over a whole batch was seen"
    assert replay.repeat(None, nullcontext(), "there are reasons") == "there are reasons"
    other = LlamaForSequenceClassification(tiny_config()).eval()
    call = record(NTPSMonitor(other), other, batch)
    assert replay.repeat(call, nullcontext()) == "another model is called than before the first step"
