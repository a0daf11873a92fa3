"""``ntps prescreen``: before any finetuning, which layer to read, which model and which data, and how sure."""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntps_lightning.command import processes

if TYPE_CHECKING:
    from ntps_lightning.prescreening.result import Prescreen

# Of the report.
_FILES = ("report.html", "report.md", "layers.csv", "result.json")
# What errors call arguments of Python's, and what they are here; not where they are part of a name or path.
_OPTIONS = {
    "text=...": "--text-column NAME",
    "label=...": "--label-column NAME",
    "group=...": "--group-column NAME",
    "regression=True": "--regression",
    "models={'a': ..., 'b': ...}": "--model NAME=DIR",
    "data={'a': ..., 'b': ...}": "--data NAME=PATH",
    "max_length=": "--max-length ",
    "max_length": "--max-length",
    "limit=": "--limit ",
    "seed=": "--seed ",
    "device='cpu'": "--device cpu",
}

_EPILOG = """\
which layer of a model to read for your labels, and how many labels it takes:

  ntps prescreen --model HuggingFaceTB/SmolLM2-135M --data reviews.csv --label-column stars --output report

which of two checkpoints is ahead, on two sets, of at most 1,000 texts each (the same texts for both):

  ntps prescreen --model base=out/checkpoint-0 --model tuned=out/checkpoint-500 \\
      --data news=news.jsonl --data tickets=tickets/ --limit 1000 --output report

Texts run once through each model; nothing is trained. What was measured is kept (see --cache): a run that was stopped
goes on with the same command, and one more model or set costs that one alone (the others too where the new model's
tokenizer sees texts as equal that theirs tell apart: all models are read on the same texts in the same groups).

several GPUs, or processes, share the texts:

  torchrun --nproc-per-node 2 -m ntps_lightning prescreen ...

exit codes: 0 all fine, 1 what was given cannot be measured (one line says why), 2 the arguments are not understood,
130 stopped by Ctrl-C. (torchrun has its own.)
"""


def add_prescreen(commands: Any) -> None:
    """Add the command to the subparsers."""
    parser = commands.add_parser(
        "prescreen",
        help="before any finetuning: which layer, model and data, how sure, and how many labels would settle it",
        description="Ranks the layers of models on labelled texts, models on a set, and sets for a model, held out.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    named = "may be given several times; NAME=... names it in the report"
    parser.add_argument(
        "--model", action="append", required=True, metavar="[NAME=]DIR", help=f"a folder or hub id; {named}"
    )
    parser.add_argument(
        "--data",
        action="append",
        required=True,
        metavar="[NAME=]PATH",
        help=f"a .csv, .tsv, .jsonl, .json or .parquet file, a folder of .txt files by class, or a hub id; {named}",
    )
    parser.add_argument("--text-column", default="text", metavar="NAME", help="of the texts (default: text)")
    parser.add_argument("--label-column", default="label", metavar="NAME", help="of the labels (default: label)")
    parser.add_argument(
        "--group-column", metavar="NAME", help="of what texts share that are not independent: a document, an author"
    )
    parser.add_argument("--regression", action="store_true", help="labels are numbers to predict, no classes")
    parser.add_argument(
        "--layers", type=_layers, default="all", metavar="all|LIST", help="such as 0,8,-1 (default: all)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="the most texts of a set (default: all)")
    parser.add_argument("--max-length", type=int, default=512, metavar="N", help="tokens of a text (default: 512)")
    parser.add_argument(
        "--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"), help="of weights (default: auto)"
    )
    parser.add_argument("--device", metavar="NAME", help="such as cuda:1 (default: a GPU where there is one)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the choice of texts (default: 0)")
    parser.add_argument("--cache", metavar="DIR", help="of what was measured (default: in the user's cache)")
    parser.add_argument(
        "--output", metavar="DIR", help="where report.html, report.md, layers.csv and result.json are written"
    )
    parser.add_argument("--json", action="store_true", help="print the answers and all numbers as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure, write the report and print; returns the exit code."""
    from ntps_lightning.errors import SetupError

    try:
        with processes.joined(options.device), _short_warnings():
            result = _measure(options)
        if processes.is_first():
            _tell(options, result)
    except SetupError as error:
        _say(in_shell(str(error)))
        return 1
    except OSError as error:
        _say(f"{error.filename or options.output or 'standard output'}: {error.strerror or error}")
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        _say(
            f"stopped; each model on each set that was finished is kept in {_cache(options)}, and the same command goes"
            " on from there"
        )
        return 130
    return 0


def _say(line: str) -> None:
    """Once on each machine, one of which may be the only one that cannot."""
    if processes.is_first_here():
        print(f"ntps prescreen: {line}", file=sys.stderr)


def named(given: Sequence[str], option: str) -> dict[str, str]:
    """Paths by name, ``NAME=PATH`` or the last part of a path; the whole one where several end alike.

    Args:
        given: on the command line.
        option: that it was given to, for messages.

    Raises:
        SetupError: If two have the same name.

    """
    from ntps_lightning.errors import SetupError

    pairs = [_pair(each) for each in given]
    short = [name or _last_part(path) for name, path in pairs]
    found: dict[str, str] = {}
    for (name, path), last in zip(pairs, short, strict=True):
        chosen = name or (last if short.count(last) == 1 else path)
        if chosen in found:
            raise SetupError(f"{option} {chosen!r} was given twice: name each, as {option} NAME={path}")
        found[chosen] = path
    return found


def _pair(given: str) -> tuple[str, str]:
    """A name, empty where there is none, and a path; one that exists is a path whatever it is called."""
    name, equals, path = given.partition("=")
    return (name, path) if equals and name and path and not Path(given).exists() else ("", given)


def _last_part(path: str) -> str:
    """Of a file without its ending; an id on the hub is whole."""
    place = Path(path).expanduser()
    if place.is_dir():
        return place.resolve().name
    return place.stem if place.exists() else path


def _layers(given: str) -> str | list[int]:
    """``"all"`` or indices.

    Raises:
        argparse.ArgumentTypeError: If it is neither.

    """
    if given == "all":
        return given
    try:
        return [int(part) for part in given.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be all, or numbers such as 0,8,-1; got {given!r}") from None


def _make(folder: Path) -> None:
    """Before anything is measured."""
    from ntps_lightning.errors import SetupError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"--output {folder} cannot be made ({error.strerror}): name a folder") from error
    if not os.access(folder, os.W_OK):
        raise SetupError(f"--output {folder} cannot be written to: name another folder")
    for name in _FILES:
        if (folder / name).is_dir():
            raise SetupError(f"--output {folder} holds a folder {name}, where a file of the report goes: name another")


def _measure(options: argparse.Namespace) -> Prescreen:
    from ntps_lightning.distributed import together

    with together():
        models, data = named(options.model, "--model"), named(options.data, "--data")
        if options.output is not None and processes.is_first():
            _make(Path(options.output))

    from ntps_lightning.prescreening.prescreen import prescreen

    return prescreen(
        models,
        data,
        text=options.text_column,
        label=options.label_column,
        group=options.group_column,
        regression=options.regression,
        layers=options.layers,
        limit=options.limit,
        max_length=options.max_length,
        dtype=options.dtype,
        device=options.device,
        seed=options.seed,
        cache=options.cache,
    )


def _tell(options: argparse.Namespace, result: Prescreen) -> None:
    from ntps_lightning.prescreening.report import terminal, write_report
    from ntps_lightning.prescreening.report.answers_json import as_json
    from ntps_lightning.prescreening.report.page import page_of

    page = None if options.output is None else write_report(result, options.output)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # of a terminal without the ² of R² or a name's letters
    try:
        if options.json:
            print(as_json(result))
        else:
            terminal.show(page_of(result))
        sys.stdout.flush()
    except BrokenPipeError:  # head, or a pager that was left, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if page is not None:
        print(f"\nThe report: {page}", file=sys.stderr if options.json else sys.stdout)


def _cache(options: argparse.Namespace) -> str:
    from ntps_lightning.prescreening.cache import default_folder

    return str(options.cache or default_folder())


@contextmanager
def _short_warnings() -> Iterator[None]:
    """A line each, without the place in the code."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        yield


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    _say(in_shell(str(message)))


def in_shell(message: str) -> str:
    """With options in place of Python's arguments."""
    for argument, option in _OPTIONS.items():
        message = re.sub(rf"(?<![\w/\\.=\-']){re.escape(argument)}(?!\S*[/\\])", option, message)
    return message


def with_negative_layers(arguments: Sequence[str]) -> list[str]:
    """``--layers -1,0`` as argparse takes it, which sees an option in what begins with a dash."""
    found: list[str] = []
    for argument in arguments:
        if found and found[-1] == "--layers" and re.fullmatch(r"-\d+(,-?\d+)*", argument):
            found[-1] = f"--layers={argument}"
        else:
            found.append(argument)
    return found
