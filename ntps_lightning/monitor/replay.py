"""A model's own calls, made again with the weights that it had before: the same samples, the same arguments."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from ntps_lightning.capture.backbone import Backbone
from ntps_lightning.capture.call import Call
from ntps_lightning.capture.module_state import ModuleState
from ntps_lightning.capture.own_pass import Within, own_pass
from ntps_lightning.distributed import max_over_ranks
from ntps_lightning.monitor.shards import resharded
from ntps_lightning.monitor.weights import Weights

ELSEWHERE = "a call could not be made again on another rank"


class Replay:
    """Makes calls again with the weights and the state that the model has now, when this is made.

    The calls are made of the Hugging Face model itself, inside whatever wraps it. Weights that do not train are taken
    as they are then. Between two calls the state goes on as it would have.

    Args:
        backbone: the decoder that is listened to, and the model that calls it.
        root: the module that holds it: all that a pass may reach.
        within: makes the context that the loop runs its model in.

    Raises:
        SetupError: If the weights cannot be exchanged, as with the first FSDP.

    """

    def __init__(self, backbone: Backbone, root: nn.Module, within: Within = nullcontext) -> None:
        self._model = backbone.outermost
        self._root = root
        self._within = within
        self._fault = ""
        with torch.no_grad():
            self._weights = Weights(self._model, root)
            try:
                self._weights.copy()
                self._state = ModuleState(self._model)
            except Exception as error:  # ranks that share the model agree later
                self._fault = f"no copy could be taken ({error!r})"

    def repeat(self, call: Call | None, listening: AbstractContextManager[Any], reason: str = "") -> str:
        """Make a call again; ranks that share the model must come here together, whether they have a call or not.

        Args:
            call: as it was made; ``None`` where there was none.
            listening: entered round the new one.
            reason: why it must not be made, where the caller knows one.

        Returns:
            Why it was made on none of the ranks that share the model, or an empty string.

        """
        with own_pass(self._root, self._within), resharded(self._root):
            try:
                reason = reason or self._why_not(call)
            except Exception as error:  # the other ranks wait for it
                reason = str(error) or repr(error)
            reason = self._agreed(reason)
            if reason or call is None:
                return reason
            with self._weights.installed(), call.as_it_was():
                self._state.install()
                with listening:
                    call.module(*call.args, **call.kwargs)
                self._state.take()
        return ""

    def _why_not(self, call: Call | None) -> str:
        if self._fault:
            return self._fault
        if call is None:
            return "no call of the model over a whole batch was seen"
        if call.module not in set(self._model.modules()):
            return "another model is called than before the first step"
        if call.embedded and self._trains_embeddings():
            return "the model is called with inputs_embeds, which weights may have made that train"
        return self._weights.why_not() or self._state.why_not() or call.why_not_again()

    def _trains_embeddings(self) -> bool:
        """Whether anything trains that may have made the model's inputs: all outside of it, and its own embeddings."""
        inside = set(self._model.modules())
        makers = [module for module in self._root.modules() if module not in inside]
        if hasattr(self._model, "get_input_embeddings"):
            makers += self._model.get_input_embeddings().modules()  # type: ignore[operator]
        weights = [weight for module in makers for weight in module._parameters.values() if weight is not None]
        return any(weight.requires_grad for weight in weights)

    def _agreed(self, reason: str) -> str:
        for group in self._weights.groups:
            if max_over_ranks([bool(reason)], group)[0]:
                reason = reason or ELSEWHERE
        return reason
