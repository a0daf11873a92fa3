"""One labelled batch: which of the model's calls are its own, and what their hidden states are added to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType

from torch import Tensor
from torchmetrics.utilities import rank_zero_warn

from ntps_lightning.capture.backbone import Backbone, adapters_disabled
from ntps_lightning.capture.call import Call, CallRecorder
from ntps_lightning.capture.forward_inputs import ForwardInputs
from ntps_lightning.capture.hooks import LayerHooks
from ntps_lightning.capture.packing import PackedSequences, sequence_ids
from ntps_lightning.errors import SetupError
from ntps_lightning.monitor.measurement import Measurement
from ntps_lightning.monitor.progress import Progress
from ntps_lightning.monitor.samples import Samples, Selection


class MonitoredBatch:
    """Listens to the model from :meth:`open` to :meth:`close`, or inside a ``with`` block, and takes its own call.

    Nothing is raised inside the model's own forward pass: what goes wrong there, :meth:`close` tells. A call that
    fails, for want of memory say, may be made again, over the same samples or, one after the other, over parts of them.

    Args:
        backbone: the decoder to listen to.
        measurement: what hidden states are added to.
        selection: which samples and tokens count.
        attention_mask: ``(N, T)``, or ``None`` to take the one that the model is called with.
        input_ids: tensors one of which the call must carry as its ids, where they have the same shape.

    Attributes:
        call: the call that was taken, where it was over the whole batch and :meth:`record` was called before.

    """

    def __init__(
        self,
        backbone: Backbone,
        measurement: Measurement,
        selection: Selection,
        *,
        attention_mask: Tensor | None = None,
        input_ids: Sequence[Tensor] = (),
    ) -> None:
        self._backbone = backbone
        self._measurement = measurement
        self._selection = selection
        self._attention_mask = attention_mask
        self._input_ids = input_ids
        self._hooks: LayerHooks | None = None
        self._progress = Progress(len(selection))
        self._samples: Samples | None = None  # of the call under way
        self._taken: list[Samples] = []  # of calls that are complete
        self._refusals: list[str] = []
        self._error: Exception | None = None
        self._unfit: dict[int, list[tuple[Tensor, Samples]]] = {}
        self._recorder: CallRecorder | None = None
        self.call: Call | None = None

    def record(self) -> None:
        """Keep the call that will be taken, so that it can be made again."""
        self._recorder = CallRecorder(self._backbone)

    def open(self) -> None:
        """Make room for what will be added, and expect the model's call."""
        try:
            self._measurement.make_room(self._backbone)
        except Exception as error:
            self._note(error)  # ranks that share a model need this one to listen all the same
        layers = self._measurement.layers
        self._hooks = LayerHooks(self._backbone, layers, self._receive, self._accept, self._note, self._complete)
        self._hooks.install()
        if self._recorder is not None:
            self._recorder.install()

    def close(self) -> None:
        """The call was made.

        Raises:
            SetupError: If none of the model's calls was the batch's own, it was made in a way that is not supported, or
                there is no memory for the sums.
            ValueError: If what was captured cannot be scored, or the call failed and was not made again.

        """
        self._stop_listening()
        try:
            self._finish()
        except Exception as error:
            self._measurement.fail(str(error) or repr(error))
            raise
        finally:
            self._unfit.clear()

    def abandon(self, reason: str) -> None:
        """The call was not completed: what was added of it cannot be taken back, so that nothing can be scored."""
        self._stop_listening()
        self._unfit.clear()
        self._measurement.fail(reason)

    def _stop_listening(self) -> None:
        if self._hooks is not None:
            self._hooks.remove()
        if self._recorder is not None:
            self._recorder.remove()
        self._hooks = None  # it refers to this batch: sums and states go with the last outside reference

    def __enter__(self) -> MonitoredBatch:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abandon(f"a forward pass was interrupted by {error!r}")

    def _finish(self) -> None:
        if not self._progress.complete and self._progress.added_all(self._measurement.layers):
            self._complete()
        self._measurement.count(len(self._selection), self._taken)
        if self._measurement.fault:
            return
        if self._error is not None:
            raise self._error
        if not self._progress.tried:
            name = type(self._backbone.decoder).__name__
            seen = "; ".join(dict.fromkeys(self._refusals)) or "it was not called (is another model used?)"
            raise SetupError(
                f"no forward pass of {name} over the batch of {len(self._selection)} labels was seen: {seen}. Pass the"
                " model that is called with `model=`, or where the batch holds one label per sequence with `labels=`"
            )
        if not self._progress.complete:
            raise ValueError(
                f"a forward pass over {len(self._selection)} samples failed and was not made again over all of them:"
                f" {len(self._selection) - self._progress.rows} are missing"
            )
        for layer, parts in self._unfit.items():
            self._measurement.make_fit(layer, parts[0][0])
            for hidden_states, samples in parts:
                self._measurement.add(layer, hidden_states, samples)

    def _note(self, error: Exception) -> None:
        self._error = self._error or error

    def _accept(self, inputs: ForwardInputs) -> bool:
        if self._progress.complete:
            return False
        rows = self._progress.rows_of(inputs)
        if self._attention_mask is not None:
            inputs = replace(inputs, attention_mask=self._attention_mask[rows] if rows else self._attention_mask)
        ids = sequence_ids(inputs)
        sequences = None if ids is None else PackedSequences(ids)
        refusal = self._why_not(inputs, sequences, whole=rows is None)
        if refusal:
            self._refusals.append(refusal)
            return False
        if self._recorder is not None:
            self.call = None if rows else self._recorder.latest
        selection = self._selection.part(rows) if rows else self._selection
        if self._measurement.samples_seen == 0 and sequences is None:
            self._warn_of_padding(inputs)
        device = inputs.device or self._backbone.device_of(self._measurement.layers[-1])
        self._samples = selection.samples_of(inputs, sequences, device)
        self._progress.begin(rows, inputs.input_ids, row_each=sequences is None)
        return True

    def _complete(self) -> None:
        if self._samples is not None:
            self._taken.append(self._samples)
        self._progress.end()

    def _why_not(self, inputs: ForwardInputs, sequences: PackedSequences | None, *, whole: bool) -> str | None:
        if inputs.cached:
            return "a call with past_key_values, as generate() makes, was left out"
        if adapters_disabled(self._backbone):
            return "a call with the adapters disabled was left out"
        if not whole:
            return None
        if self._progress.differs(inputs):
            return "a call with other input_ids than the one that failed was left out"
        return self._why_another(inputs, sequences)

    def _why_another(self, inputs: ForwardInputs, sequences: PackedSequences | None) -> str | None:
        rows = inputs.shape[0]
        count = rows if sequences is None else len(sequences)
        if count != len(self._selection):
            packed = f", packed into {rows}," if sequences is not None else ""
            hint = " (packed? their boundaries must be given, as restarting position_ids or cu_seq_lens)"
            return f"a call over {count} sequences{packed} was left out{hint if rows < len(self._selection) else ''}"
        ids = inputs.input_ids
        if ids is not None:
            own = [t.to(ids.device) for t in self._input_ids if t.shape == ids.shape]
            if own and not any(t.equal(ids) for t in own):
                return "a call with other input_ids than the batch's was left out"
        return None

    def _warn_of_padding(self, inputs: ForwardInputs) -> None:
        if inputs.has_unmasked_padding(self._backbone.pad_token_id, self._selection.tokens):
            rank_zero_warn(
                "the model is called without an attention_mask, and rows of its input_ids begin or end in pad tokens:"
                " they count as text in the score. Pass the mask to the model, or give `attention_mask=`"
            )

    def _receive(self, layer: int, hidden_states: Tensor, inputs: ForwardInputs) -> None:
        # A rank that has failed still listens: those that share a model must gather its states together.
        if self._measurement.fault or self._error is not None or self._samples is None or not len(self._samples.labels):
            return
        if not self._progress.is_new_to(layer):
            return
        if self._measurement.fits(layer, hidden_states):
            self._measurement.add(layer, hidden_states, self._samples)
        else:
            self._unfit.setdefault(layer, []).append((hidden_states, self._samples))
