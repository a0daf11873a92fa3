"""What a layer's details say before finetuning."""

from __future__ import annotations

from ntps_lightning.functional.details import NTPSDetails
from ntps_lightning.functional.jackknife import Estimate
from ntps_lightning.functional.learning_curve import LearningCurve
from ntps_lightning.prescreening.measured import LayerNumbers, Number

# Times the labels at hand that the learning curve is extrapolated to, where it reaches so far.
_FURTHER = (2, 4)


def layer_numbers(layer: int, details: NTPSDetails) -> LayerNumbers:
    """The numbers of a layer.

    Args:
        layer: its index.
        details: with estimators.

    Raises:
        ValueError: If there are no held-out numbers, or details are without estimators.

    """
    found = details.held_out
    if found is None:
        raise ValueError(f"layer {layer} has no held-out numbers: {details.not_held_out}")
    if details.rankme is None or details.log_me is None:
        raise ValueError(f"layer {layer} has no RankMe or no LogME: compute details with estimators=True")
    curve, expected, remarks = _learned(found.learning_curve, details.num_samples)
    if found.at_edge:
        remarks.append(f"the best ridge of {', '.join(found.at_edge)} is an end of the grid")
    if found.probe_accuracy is not None and found.reads_nothing:
        expected = {}
        remarks.append(
            "accuracy is not shown, since the probe may read nothing: R² is not two standard errors above zero, or"
            " the best ridge is the highest of the grid"
        )
    if details.h_score is not None and details.samples_per_dim <= 1:
        remarks.append(
            "with no more texts than dimensions H-score is the number of classes less one, whatever they are"
        )
    return LayerNumbers(
        layer=layer,
        probe_r2=_on_host(found.probe_r2),
        probe_accuracy=None if found.probe_accuracy is None else _on_host(found.probe_accuracy),
        reads_nothing=found.reads_nothing,
        captured_r2=_number(found.captured_r2),
        principal_r2=_number(found.principal_r2),
        score=details.score,
        null=details.null,
        lift=details.lift,
        k=details.k,
        rankme=details.rankme,
        h_score=details.h_score,
        log_me=details.log_me,
        curve=curve,
        expected=expected,
        groups=found.groups,
        remarks=tuple(remarks),
    )


def _number(estimate: Estimate) -> Number:
    return estimate.value, estimate.se


def _on_host(estimate: Estimate) -> Estimate:
    return Estimate(estimate.value, estimate.own.cpu(), estimate.fit.cpu(), estimate.num_groups, estimate.unseen)


def _learned(curve: LearningCurve | None, num_samples: int) -> tuple[dict[int, Number], dict[int, Number], list[str]]:
    """Of accuracy for classes, else of R²; and why it, or what is expected of more rows, is not there."""
    if curve is None:
        return {}, {}, ["there is no learning curve: too few rows are left beside 50 that are fitted"]
    if curve.accuracy is not None and curve.accuracy_se is not None:
        values, errors, predict = curve.accuracy, curve.accuracy_se, curve.predict_accuracy
    else:
        values, errors, predict = curve.r2, curve.r2_se, curve.predict
    found = {size: (values[size], errors[size]) for size in sorted(values)}
    sizes = [times * num_samples for times in _FURTHER if times * num_samples <= curve.farthest]
    try:
        return found, {size: predict(size) for size in sizes}, []
    except ValueError as error:
        return found, {}, [str(error)]
