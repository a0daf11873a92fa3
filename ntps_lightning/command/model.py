"""Whether a model can be scored, and what that takes: told as the callback tells it at its start, without weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ntps_lightning.model_files import NoModelError, find_file, read_json, what_is_there

if TYPE_CHECKING:
    from ntps_lightning.command.cost import Cost


@dataclass
class ModelReport:
    """What is to be said of a model.

    Args:
        given: the folder or hub id.
        name: the class that is scored.
        adapters: PEFT's adapters that the folder holds, if it does, and of which model.
        supported: whether it can be scored; ``None`` where that cannot be told here.
        seen: what that was told from.
        layers: how many layers can be named, the embeddings among them; 1 where only the last can.
        hidden_size: d.
        k: how many directions are scored by default, where there are no more classes than that.
        samples: how many labelled samples the score wants.
        cost: what a layer takes, and how many fit.
        notes: what else to know.
        problems: why it cannot be scored, or why that cannot be told, with the way out.

    """

    given: str
    name: str = ""
    adapters: str = ""
    supported: bool | None = None
    seen: str = ""
    layers: int | None = None
    hidden_size: int | None = None
    k: int | None = None
    samples: int | None = None
    cost: Cost | None = None
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def look_at_model(given: str, devices: list[str]) -> ModelReport:
    """Look at the configuration in a folder, or in a repository of the hub.

    Args:
        given: its path or id.
        devices: where sums could be kept, by name.

    """
    report = ModelReport(given)
    try:
        _look(report, devices)
    except NoModelError as error:
        report.problems.append(str(error))
    except ValueError as error:  # as the callback raises it
        report.supported = False
        report.problems.append(str(error))
    return report


def _look(report: ModelReport, devices: list[str]) -> None:
    where = report.given
    adapters = find_file(where, "adapter_config.json")
    if adapters is not None:
        from ntps_lightning.adapters import base_of

        content = read_json(adapters)
        where = base_of(content)
        report.adapters = f"{content['peft_type']} of {where}"
    config = find_file(where, "config.json")
    if config is None:
        raise NoModelError(
            f"{where} has no config.json and no adapter_config.json ({what_is_there(where)}): name a folder that"
            " save_pretrained wrote, or a hub id"
        )
    if find_spec("torch") is None or find_spec("transformers") is None:
        raise NoModelError("nothing can be told of a model before torch and transformers are installed")
    from ntps_lightning.command.model_class import look_at_class

    look_at_class(report, config, devices)
