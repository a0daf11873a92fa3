"""Whether a model looks ahead: seen from what it does, since names and configurations do not tell."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from ntps_lightning.capture.backbone import Backbone
from ntps_lightning.capture.entry import NotCallableError, find_entry, reshard
from ntps_lightning.capture.hooks import output_states, whole
from ntps_lightning.capture.module_state import ModuleState
from ntps_lightning.capture.own_pass import own_pass
from ntps_lightning.distributed import max_over_ranks
from ntps_lightning.errors import SetupError

# Rows of 16 tokens that share the first four.
_LENGTH = 16
_SHARED = 4
# Decoders of transformers show 0 in float32, float16 and bfloat16; encoders .0016 and more as they are initialised at a
# hidden size of 16, where attention says least, and a pretrained one 2.6.
_LIMIT = 1e-4
# How many times further than rounding takes equal rows, and what rounding hides too much.
_ABOVE_ROUNDING = 10
_TOO_ROUGH = 1e-2


# For whoever can pass it.
ADVICE = ", or pass allow_bidirectional=True if you know better"


class _UntriedError(Exception):
    """Why it could not be seen."""


def refuse_lookahead(backbone: Backbone, module: nn.Module) -> None:
    """Refuse a model whose states of early tokens depend on later ones; every rank must call it.

    Where that cannot be tried, one line says so.

    Args:
        backbone: the decoder to try.
        module: what it was found in.

    Raises:
        SetupError: On every rank, if the model looks ahead.

    """
    from torchmetrics.utilities import rank_zero_info

    untried = try_lookahead(backbone, module)
    if untried:
        rank_zero_info(f"NTPS {untried}")


def try_lookahead(backbone: Backbone, module: nn.Module) -> str:
    """The same, but hands back the line: why it could not be tried, empty where it was.

    The decoder is called once, over four short rows, and left as it was (:func:`own_pass`).
    """
    influence, reason = 0.0, ""
    try:
        influence = _influence(_states(backbone, module))
    except (NotCallableError, _UntriedError) as error:
        reason = str(error)
    name = type(backbone.decoder).__name__
    millionths, untried = max_over_ranks([round(influence * 1e6), bool(reason)])
    if millionths > _LIMIT * 1e6:
        raise SetupError(
            f"{name} looks ahead: when only later tokens change, its states of the earlier ones move"
            f" {millionths / 1e6:.2g} times as far as those of the changed ones. The score asks how well states predict"
            f" the next token, and means nothing where they have seen it: score a decoder-only language model{ADVICE}"
        )
    return f"could not try whether {name} looks ahead: {reason or 'it failed on another rank'}" if untried else ""


def _influence(states: Tensor) -> float:
    """How far states of shared tokens move with the later ones, next to how far those of the later ones move.

    Equal rows say what is rounding: the order A, B, B, A leaves no way of splitting a batch among kernels that would
    set A apart from B.

    Args:
        states: ``(4, T, d)`` of rows A, B, B, A.

    """
    a, b, b2, a2 = states
    equal = torch.maximum(_distance(a, a2), _distance(b, b2))
    unequal = torch.stack([_distance(x, y) for x in (a, a2) for y in (b, b2)]).amin(0)
    moved = unequal[_SHARED:].median()
    if not moved > 0:
        raise _UntriedError("its states do not tell tokens apart")
    clear = unequal.where(unequal > _ABOVE_ROUNDING * equal, 0)
    influence, rounding = (float(distance[:_SHARED].max() / moved) for distance in (clear, equal))
    if influence <= _LIMIT and rounding > _TOO_ROUGH:
        raise _UntriedError("its states of equal rows differ")
    return influence


def _distance(x: Tensor, y: Tensor) -> Tensor:
    distance: Tensor = (x - y).norm(dim=-1)
    return distance


def _states(backbone: Backbone, module: nn.Module) -> Tensor:
    """``(4, T, d)`` last hidden states of the rows, in float64 on the CPU."""
    if not backbone.vocab_size:
        raise _UntriedError("it declares no vocabulary")
    entry = find_entry(backbone.decoder, module)
    seen: list[Tensor] = []
    try:
        state = ModuleState(entry)
        with own_pass(module if entry in set(module.modules()) else entry):
            state.install()
            for each in entry.modules():
                each.training = False
            handle = backbone.decoder.register_forward_hook(lambda m, args, output: seen.append(output_states(output)))
            try:
                entry(**_inputs(backbone, entry))
            finally:
                handle.remove()
                reshard(entry)
            states: Tensor = whole(seen[-1]).cpu().double()
    except Exception as error:  # whatever a model may raise costs a line, and leaves the run as it was
        raise _UntriedError(f"a call over (4, {_LENGTH}) input_ids failed with {error!r:.200}") from error
    if states.shape[:2] != (4, _LENGTH) or states.ndim != 3:
        raise _UntriedError(f"a call over (4, {_LENGTH}) input_ids gave states of shape {tuple(states.shape)}")
    if not states.isfinite().all():
        raise _UntriedError("its states hold NaN or Inf")
    return states


def _inputs(backbone: Backbone, entry: nn.Module) -> dict[str, Any]:
    ids = _rows(backbone.vocab_size or 0, backbone.pad_token_id).to(backbone.device_of(0))
    without_cache = {"use_cache": False} if "use_cache" in inspect.signature(entry.forward).parameters else {}
    return {"input_ids": ids, **without_cache}


def _rows(vocab_size: int, pad_token_id: int | None) -> Tensor:
    """``(4, T)`` ids of rows A, B, B, A, none of them padding.

    The later tokens of a row are all one, so that their mean, which is all that attention takes of them before it is
    trained, differs between A and B as far as two tokens do.
    """
    usable = [token for token in range(vocab_size) if token != pad_token_id]
    first, *shared, last = (usable[(2 * i + 1) * len(usable) // (2 * _SHARED + 4)] for i in range(_SHARED + 2))
    a, b = (shared + [token] * (_LENGTH - _SHARED) for token in (first, last))
    return torch.tensor([a, b, b, a])
