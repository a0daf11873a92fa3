"""What a run has measured: history, details and baseline, and what of it a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torchmetrics.utilities import rank_zero_warn

from ntps_lightning.functional.details import NTPSDetails
from ntps_lightning.functional.held_out import HeldOut
from ntps_lightning.functional.jackknife import Estimate
from ntps_lightning.watch.baseline import Baseline
from ntps_lightning.watch.names import logged_values, valid_key

# Of what is kept in checkpoints; 1 had other keys, 2 no held-out numbers to compare with.
_FORMAT = 3


class Records:
    """The measurements of a run.

    Args:
        prefix: what the keys start with.
        definition: what the numbers depend on, by name, as text; a checkpoint of another one is not gone on with.

    Attributes:
        history: one dict for each measurement: ``step``, ``epoch`` and the logged values.
        details: the latest details of each layer.
        baseline: what was measured before the first step.
        num_classes: classes that were seen so far.
        class_names: what each is called, where labels are words.
        definition: what the numbers depend on.
        changes: of the headline's held-out numbers, paired, since the ``"baseline"``, the ``"previous"`` measurement
            and the ``"best"`` before by ``captured_r2``.

    """

    def __init__(self, prefix: str, definition: Mapping[str, str]) -> None:
        self.history: list[dict[str, float]] = []
        self.details: dict[int, NTPSDetails] = {}
        self.baseline = Baseline()
        self.num_classes = 0
        self.class_names: list[str] = []
        self.changes: dict[str, dict[str, Estimate]] = {}
        self._earlier: dict[str, HeldOut] = {}
        self.definition = dict(definition)
        self._prefix = prefix
        self._loaded: Mapping[str, str] = {}

    def differs_in(self, name: str, value: str) -> bool:
        """Whether what was gone on with was measured with another ``value``; it is said."""
        differs = bool(self._loaded) and self._loaded.get(name) != value
        if differs:
            rank_zero_warn(f"the checkpoint's `{self._prefix}` history was measured on other data: it starts anew")
        return differs

    @property
    def headline(self) -> NTPSDetails:
        """The details of the highest layer."""
        return self.details[max(self.details)]

    @property
    def latest(self) -> dict[str, float]:
        """The values of the latest measurement, whether it failed or not."""
        return _values(self.history[-1])

    @property
    def last_known(self) -> dict[str, float]:
        """The latest value of every key, from measurements that did not fail."""
        found = logged_values(self._prefix, {}, None)
        for row in self.history:
            found |= _values(row) if row[valid_key(self._prefix)] else {}
        return found

    def take(self, details: dict[int, NTPSDetails], step: int, *, baseline: bool, untrained: bool) -> None:
        """New details, and the baseline if these are the first and one is wanted."""
        before = self.details
        self.details = details
        if baseline and self.baseline.score is None:
            self.baseline.details = details
            if not untrained and not self.baseline.why_none:
                rank_zero_warn(
                    f"`{self._prefix}/gain` counts from step {step}: there is no score from before the first step"
                )
        if before and before[max(before)].k != self.headline.k:
            rank_zero_warn(
                f"`{self._prefix}` is measured with k = {self.headline.k} from step {step} on, it was"
                f" {before[max(before)].k}: more classes were seen. The two do not compare; pass num_classes or k"
            )

        self._compare(self.headline.held_out)

    def _compare(self, now: HeldOut | None) -> None:
        first = self.baseline.details.get(max(self.details))
        then = self._earlier | ({"baseline": first.held_out} if first and first is not self.headline else {})
        pairs = {what: now.since(each) for what, each in then.items() if now is not None and each is not None}
        self.changes = {what: changes for what, changes in pairs.items() if changes is not None}
        if now is not None:
            best = self._earlier.get("best")
            better = best is None or now.captured_r2.value > best.captured_r2.value
            self._earlier = {"previous": now, "best": now if better else best}  # type: ignore[dict-item]

    def append(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """One more row of the history."""
        self.history.append({"step": step, "epoch": epoch, **values})

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "format": _FORMAT,
            "definition": self.definition,
            "history": self.history,
            "baseline": self.baseline.state_dict(),
            "earlier": {what: asdict(each) for what, each in self._earlier.items()},
            "num_classes": self.num_classes,
            "class_names": self.class_names,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what :meth:`state_dict` returned; with a warning nothing, if that was measured otherwise."""
        reason = self._why_not(state)
        if reason:
            rank_zero_warn(f"the checkpoint's `{self._prefix}` history {reason}: it starts anew, without a baseline")
            return
        self._loaded = state["definition"]
        self.history = state["history"]
        self.baseline.load_state_dict(state["baseline"])
        self._earlier = {what: HeldOut.of(each) for what, each in state.get("earlier", {}).items()}
        self.num_classes = state["num_classes"]
        self.class_names = state["class_names"]

    def _why_not(self, state: Mapping[str, Any]) -> str:
        if state.get("format") != _FORMAT:
            return "was kept by another version of ntps_lightning"
        before = state["definition"]
        # An option that was not there yet was not used.
        changed = [name for name in self.definition if str(before.get(name)) != self.definition[name]]
        if "digest" in changed:
            return "was measured on other data"
        was = ", ".join(f"{name}={before.get(name)} (now {self.definition[name]})" for name in changed)
        return f"was measured with {was}" if changed else ""


def _values(row: Mapping[str, float]) -> dict[str, float]:
    return {key: value for key, value in row.items() if key not in ("step", "epoch")}
