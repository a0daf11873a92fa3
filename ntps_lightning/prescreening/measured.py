"""What one pass of a model over a data set has shown, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ntps_lightning.functional.jackknife import Estimate

# A number and its standard error.
Number = tuple[float, float]


@dataclass(frozen=True)
class LayerNumbers:
    """One layer.

    Args:
        layer: index into what ``output_hidden_states=True`` returns: 0 are the embeddings, the highest the states after
            the final norm.
        probe_r2: held out, of a ridge probe on the pooled states.
        probe_accuracy: its share of right classes; ``None`` for targets that are no classes.
        reads_nothing: whether R² is not two standard errors above zero, or a ridge is the highest of the grid:
            ``probe_accuracy`` is meaningless then.
        captured_r2: held out, of the probe confined to the leading k autoregressive directions.
        principal_r2: of the probe confined to as many principal components.
        score: the Next Token Perception Score.
        null: what shuffled labels would score.
        lift: (score - null) / (1 - null).
        k: number of those directions.
        rankme: RankMe of the pooled states.
        h_score: H-score without shrinkage; ``None`` for targets that are no classes.
        log_me: LogME, a maximised evidence.
        curve: held-out R² (accuracy for classes) of probes by the number of samples that they were fitted on.
        expected: the same with twice and four times the texts at hand, extrapolated, as far as the curve reaches.
        groups: a hash of which groups of texts were read, and of how many texts each has.
        remarks: why a number is not to be trusted, or not there.

    """

    layer: int
    probe_r2: Estimate
    probe_accuracy: Estimate | None
    reads_nothing: bool
    captured_r2: Number
    principal_r2: Number
    score: float
    null: float
    lift: float
    k: int
    rankme: float
    h_score: float | None
    log_me: float
    curve: dict[int, Number]
    expected: dict[int, Number]
    groups: int
    remarks: tuple[str, ...] = ()

    @property
    def accuracy(self) -> Number | None:
        """``probe_accuracy`` and its standard error; ``None`` also where the probe reads nothing."""
        if self.probe_accuracy is None or self.reads_nothing:
            return None
        return self.probe_accuracy.value, self.probe_accuracy.se


@dataclass(frozen=True)
class Measured:
    """A model on a data set.

    Args:
        model: what the model is called.
        data: what the data set is called.
        model_id: a hash of the model's content.
        data_id: a hash of the data's content. Estimates of measurements that share it, ``num_samples`` and ``groups``
            of a layer are of the same texts in the same order, whatever the tokenizers.
        num_samples: texts that count.
        num_kept: rows that held-out numbers were read on.
        class_names: of classes, in their order; empty for other targets.
        hidden_size: d.
        layers: in ascending order.
        seconds: that the pass took, with the solution of all layers.
        remarks: what was found in the data or the model that a reader should know.
        versions: of the packages that measured.
        device: that was measured on.

    """

    model: str
    data: str
    model_id: str
    data_id: str
    num_samples: int
    num_kept: int
    class_names: tuple[str, ...]
    hidden_size: int
    layers: tuple[LayerNumbers, ...]
    seconds: float
    remarks: tuple[str, ...] = field(default=())
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
