"""A forward pass of our own through a user's model, which leaves no trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ntps_lightning.capture.eager import FORCE_EAGER

# What a forward pass changes in place is small; larger buffers may be quantised weights.
_LARGEST_COPY = 2**16


@contextmanager
def own_pass(module: nn.Module) -> Iterator[None]:
    """Inside the block ``module`` is in evaluation mode and runs eagerly, without gradients; autocast is as outside.

    Afterwards, whatever happened, these are as they were: each module's mode, plain attributes, submodules and buffers
    (the contents of those of at most 65,536 numbers), and the random numbers of torch, of the weights' devices, of
    numpy and of Python. Hooks on the model are called as in any pass.
    """
    with ExitStack() as after:
        _keep_random_numbers(module, after)
        for each in module.modules():
            _keep_module(each, after)
        FORCE_EAGER.enter()
        after.callback(FORCE_EAGER.leave)
        # Older versions of torch keep weights that were cast under no_grad for the passes that want gradients.
        after.callback(torch.set_autocast_cache_enabled, torch.is_autocast_cache_enabled())
        torch.set_autocast_cache_enabled(False)
        for each in module.modules():
            each.training = False
        with torch.inference_mode(False), torch.no_grad():  # tensors made in inference mode may be kept by the model
            yield


def _keep_module(module: nn.Module, after: ExitStack) -> None:
    after.callback(_put_back, vars(module), dict(vars(module)))
    after.callback(_put_back, module._modules, dict(module._modules))
    after.callback(_put_back, module._buffers, dict(module._buffers))
    for buffer in module._buffers.values():
        if buffer is not None and not buffer.is_meta and buffer.numel() <= _LARGEST_COPY:
            after.callback(_put_back_numbers, buffer, buffer.detach().clone())
    for value in vars(module).values():
        if isinstance(value, torch.Generator):
            after.callback(value.set_state, value.get_state())


def _put_back(now: dict[str, Any], before: dict[str, Any]) -> None:
    if list(now) != list(before):
        now.clear()  # a name that was removed and set again would come last
    now.update(before)


@torch.no_grad()
def _put_back_numbers(now: Tensor, before: Tensor) -> None:
    if not torch.equal(now, before):
        now.copy_(before)


def _keep_random_numbers(module: nn.Module, after: ExitStack) -> None:
    after.callback(random.setstate, random.getstate())
    after.callback(np.random.set_state, np.random.get_state())
    devices = {weight.device for weight in module.parameters()} - {torch.device("cpu")}
    after.enter_context(torch.random.fork_rng(devices=[]))
    for device in devices:
        after.enter_context(torch.random.fork_rng(devices=[device.index], device_type=device.type))
