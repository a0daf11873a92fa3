"""Hidden states out of the user's own forward pass, for whoever wants them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from ntps_lightning.capture.backbone import Backbone, Layers, find_backbone
from ntps_lightning.capture.forward_inputs import ForwardInputs
from ntps_lightning.capture.hooks import LayerHooks


class CapturedRepresentations(Mapping[int, Tensor]):
    """Hidden states of the latest forward pass: ``representations[layer]`` is ``(N, T, d)``, detached."""

    def __init__(self, backbone: Backbone) -> None:
        self._depth = len(backbone.layers)
        self._name = type(backbone.decoder).__name__
        self._states: dict[int, Tensor] = {}
        self._inputs: ForwardInputs | None = None

    @property
    def attention_mask(self) -> Tensor | None:
        """The ``(N, T)`` mask of that pass, or ``None`` where it had none."""
        return None if self._inputs is None else self._inputs.padding_mask()

    def __getitem__(self, layer: int) -> Tensor:
        index = layer + self._depth + 1 if layer < 0 else layer
        if index not in self._states:
            what = (
                f"only layers {sorted(self._states)} were asked for"
                if self._states
                else f"no forward pass of {self._name} was seen inside the block"
            )
            raise KeyError(f"layer {layer} was not captured: {what}")
        return self._states[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._states)

    def __len__(self) -> int:
        return len(self._states)

    def _receive(self, index: int, hidden_states: Tensor, inputs: ForwardInputs) -> None:
        self._states[index] = hidden_states
        self._inputs = inputs


@contextmanager
def capture_representations(model: nn.Module, layers: Layers = -1) -> Iterator[CapturedRepresentations]:
    """Capture hidden states of chosen layers from forward passes inside the block, without a second pass.

    Args:
        model: a Hugging Face causal LM, sequence classifier or bare decoder, inside PEFT or any other module; or a
            module of plain PyTorch that returns ``(N, T, d)`` hidden states.
        layers: indices into what ``output_hidden_states=True`` returns, or ``"all"``: 0 are the embeddings, i the
            output of the i-th layer, -1 the states after the final norm.

    Yields:
        A mapping from layer to ``(N, T, d)`` hidden states, of the latest pass; those that ``generate()`` makes are
        left out.

    Raises:
        ValueError: If ``model`` does not hold exactly one supported language model, or a layer is out of range.

    Example:
        >>> import torch
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from ntps_lightning import capture_representations
        >>> config = LlamaConfig(vocab_size=99, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        ...     num_attention_heads=2)
        >>> model = LlamaForCausalLM(config)
        >>> with torch.no_grad(), capture_representations(model, layers=[0, -1]) as representations:
        ...     output = model(input_ids=torch.randint(99, (3, 7)))
        >>> {layer: tuple(states.shape) for layer, states in representations.items()}
        {0: (3, 7, 16), 2: (3, 7, 16)}

    """
    backbone = find_backbone(model, model)
    representations = CapturedRepresentations(backbone)
    hooks = LayerHooks(
        backbone, backbone.resolve(layers), representations._receive, accept=lambda inputs: not inputs.cached
    )
    hooks.install()
    try:
        yield representations
    finally:
        hooks.remove()
