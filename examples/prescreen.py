"""Before any finetuning: which layer of SmolLM2-135M to read for each of seven packaged data sets, and how sure.

python -m examples.prescreen                       # offline; stopped and started again, it goes on where it was
python -m examples.prescreen --data mine.csv       # beside them, one of yours with columns text and label
"""

import argparse
import os
import sys
import time
import webbrowser
from pathlib import Path

from benchmarks.study.texts.readers import read
from examples import offline
from ntps_lightning.errors import SetupError
from ntps_lightning.prescreening.prescreen import prescreen
from ntps_lightning.prescreening.report import terminal, write_report
from ntps_lightning.prescreening.report.page import page_of

SETS = {
    "vader_tweets": "sentiment of tweets",
    "rt_polarity": "sentiment of snippets of film reviews",
    "airline3": "sentiment of tweets at airlines, three grades",
    "drugs2": "sentiment of reviews of drugs",
    "bbc": "sections of BBC news",
    "r8": "topics of Reuters dispatches",
    "ng20": "twenty newsgroups",
}


def show(page):
    """Open it where there is a desktop to open it on."""
    desktop = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if desktop and sys.stdout.isatty():
        webbrowser.open(page.resolve().as_uri())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a file of yours, beside the packaged ones")
    parser.add_argument("--limit", type=int, default=500, help="the most texts of a set")
    parser.add_argument("--max-length", type=int, default=32, help="tokens after which a text ends")
    parser.add_argument("--output", default="logs/prescreen", help="where the report and what was measured go")
    args = parser.parse_args()
    begin = time.perf_counter()
    data = {name: read(name) for name in SETS}
    if args.data:
        data[Path(args.data).stem] = args.data
    models = {"SmolLM2-135M-Instruct": offline.smollm2()}
    cache = Path(args.output) / "measured"
    limits = {"limit": args.limit, "max_length": args.max_length}
    result = prescreen(models, data, **limits, dtype="float32", device="cpu", cache=cache)
    page = write_report(result, args.output)
    terminal.show(page_of(result))
    print("\n" + "\n".join(f"{name}: {meaning}" for name, meaning in SETS.items()))
    print(f"\n{time.perf_counter() - begin:.0f} seconds. The report: {page}. Next, with your texts:")
    python = Path(sys.executable)
    python = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python
    (model,) = models.values()
    print(f"  {python.with_name('ntps')} prescreen --model {model} --data yours.csv --output report")
    show(page)


if __name__ == "__main__":
    try:
        main()
    except SetupError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("\nStopped. Sets that were finished are kept; the same command goes on from there.")
