"""Forward passes of our own, which leave no trace: whatever they change is put back."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import nn

from ntps_lightning.capture.eager import FORCE_EAGER

Within = Callable[[], AbstractContextManager[Any]]


@contextmanager
def own_pass(root: nn.Module, within: Within = nullcontext) -> Iterator[None]:
    """Room for forward passes, without gradients and eager.

    Afterwards, whatever happened, modules have the modes, attributes and buffers that they had, by reference, lists and
    dictionaries among these their items, generators their states, and so have the random numbers of PyTorch, NumPy and
    Python. What is changed in place inside of a tensor stays changed, unless the pass has a state of its own (see
    :class:`~ntps_lightning.capture.module_state.ModuleState`), and nothing can be done about generators of NumPy and
    files that modules hold, nor about what forward hooks of others do.

    Args:
        root: all that the pass may reach.
        within: makes the context that a loop runs its model in.

    """
    kept = _Kept(root)
    cache = torch.is_autocast_cache_enabled()
    FORCE_EAGER.enter()
    # Older versions of torch keep weights that were cast without gradients for the passes that want them.
    torch.set_autocast_cache_enabled(False)
    try:
        # Not inference mode: a tensor that a model keeps of it is one that training cannot use.
        with torch.inference_mode(False), torch.no_grad(), within():
            yield
    finally:
        torch.set_autocast_cache_enabled(cache)
        FORCE_EAGER.leave()
        kept.put_back()


class _Kept:
    """What modules hold, and the state of random numbers."""

    def __init__(self, root: nn.Module) -> None:
        self._attributes = [(module.__dict__, dict(module.__dict__)) for module in root.modules()]
        held = [value for _, values in self._attributes for name, value in values.items() if name != "_parameters"]
        self._items = [(value, value.copy()) for value in held if type(value) in (list, dict, set)]
        self._generators = [(value, value.get_state()) for value in held if isinstance(value, torch.Generator)]
        self._torch = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
        self._numpy = np.random.get_state()
        self._python = random.getstate()

    def put_back(self) -> None:
        """Everything but what is as it was."""
        for now, before in self._attributes:
            _put_back(now, before)
        for items, before in self._items:
            if isinstance(items, dict):
                _put_back(items, before)
            elif isinstance(items, set):
                items.intersection_update(before)
                items.update(before)
            elif len(items) != len(before) or any(a is not b for a, b in zip(items, before, strict=True)):
                items[:] = before
        for generator, state in self._generators:
            generator.set_state(state)
        torch.set_rng_state(self._torch)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)
        np.random.set_state(self._numpy)
        random.setstate(self._python)


def _put_back(now: dict[Any, Any], before: dict[Any, Any]) -> None:
    """Compiled code watches the dictionaries of modules: what is as it was is left alone."""
    for key in [key for key in now if key not in before]:
        del now[key]
    for key, value in before.items():
        if key not in now or now[key] is not value:
            now[key] = value
