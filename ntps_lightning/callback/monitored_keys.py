"""What EarlyStopping, ModelCheckpoint and schedulers see between two measurements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torchmetrics.utilities import rank_zero_warn

from ntps_lightning.watch.names import higher_is_better, is_ours, renamed_key, worst


class MonitoredKeys:
    """Callbacks that monitor a score which is not measured at every validation.

    A monitor must find its key whenever it looks, or it stops the run. Where a key has nothing new it finds the last
    value, and that look does not count against the patience of the callbacks that monitor this key.

    Args:
        prefix: what the score's keys start with.

    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._held: set[str] = set()

    def check(self, callbacks: Iterable[Any], keys: set[str], *, measured: bool) -> None:
        """Refuse callbacks that monitor keys which are never logged, none of which is without validation.

        Raises:
            ValueError: If there is one.

        """
        for callback in self._ours(callbacks):
            if not measured:
                raise ValueError(
                    f"{type(callback).__name__}(monitor={callback.monitor!r}): this run has no validation epochs, on"
                    " which it is measured; give trainer.fit a validation dataloader, and the module a"
                    " validation_step, or NTPSCallback a labelled side set (data=...)"
                )
            self._check(type(callback).__name__, callback.monitor, getattr(callback, "mode", None), keys)

    def check_schedulers(self, configs: Iterable[Any], keys: set[str]) -> None:
        """The same for learning rate schedulers, by Lightning's configurations of them."""
        for config in self._ours(configs):
            name = type(config.scheduler).__name__
            self._check(name, config.monitor, getattr(config.scheduler, "mode", None), keys)

    def _check(self, who: str, monitor: str, mode: str | None, keys: set[str]) -> None:
        name = f"{who}(monitor={monitor!r})"
        if monitor not in keys:
            raise ValueError(f"{name}: {self._why_not(monitor, keys)}")
        if mode == "min" and higher_is_better(monitor):
            rank_zero_warn(f'{name} has mode="min", but higher is better: did you mean mode="max"?')

    def hold(self, trainer: Any, keys: Iterable[str], last: Mapping[str, float]) -> None:
        """This validation brought nothing new of these keys: monitors find the last values, or where there are none the
        worst that they do not stop on.
        """
        self._held = set(keys)
        seen = {each.monitor for each in self._ours((*trainer.callbacks, *trainer.lr_scheduler_configs))}
        for key in self._held & {*last, *seen}:
            trainer.callback_metrics.setdefault(key, torch.tensor(last.get(key, self._worst(trainer, key))))
        if trainer.state.fn == "fit":
            self._spare(trainer, on_train_epoch_end=False)

    def end_epoch(self, trainer: Any) -> None:
        """Before monitors look at the end of a training epoch."""
        self._spare(trainer, on_train_epoch_end=True)
        self._held = set()

    def _worst(self, trainer: Any, key: str) -> float:
        """No further than where EarlyStopping takes a run to diverge."""
        found = worst(key)
        for callback in self._ours(trainer.callbacks):
            threshold = getattr(callback, "divergence_threshold", None)
            if callback.monitor == key and threshold is not None:
                found = (max if callback.mode == "max" else min)(found, float(threshold))
        return found

    def _why_not(self, monitor: str, keys: set[str]) -> str:
        new_name = renamed_key(self._prefix, monitor)
        if new_name in keys:
            return f"this key is called {new_name!r} now"
        return f"NTPSCallback does not log it, only {sorted(keys)}"

    def _spare(self, trainer: Any, *, on_train_epoch_end: bool) -> None:
        """One look, which finds no improvement, less to be patient for: the count stays as it was."""
        for callback in self._ours(trainer.callbacks):
            looks_then = getattr(callback, "_check_on_train_epoch_end", False) == on_train_epoch_end
            if callback.monitor in self._held and looks_then and hasattr(callback, "wait_count"):
                callback.wait_count -= 1

    def _ours(self, callbacks: Iterable[Any]) -> Iterator[Any]:
        """Those that monitor a key under the prefix."""
        for callback in callbacks:
            monitor = getattr(callback, "monitor", None)
            if isinstance(monitor, str) and is_ours(self._prefix, monitor):
                yield callback
