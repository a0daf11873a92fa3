"""transformer-ranker, which is no dependency: in a folder of its own, and imported in processes of its own."""

import logging
import os
import subprocess
import sys
import time
from importlib import import_module

import torch
from transformers import AutoTokenizer

from benchmarks.prescreen.cost import Meter
from benchmarks.prescreen.settings import BUILD, LENGTH
from benchmarks.prescreen.texts import same_length, split
from benchmarks.study.training.backbones import FOLDERS, backbone, tokenizer

VERSION = "0.2.0"
FOLDER = BUILD / f"transformer_ranker-{VERSION}"
ESTIMATORS = {"hscore": "HScore", "logme": "LogME", "knn": "NearestNeighbors"}


def install() -> None:
    """Fetch it where it is not there yet; it runs with the torch, transformers and datasets that are.

    Raises:
        RuntimeError: If it cannot be fetched.

    """
    if installed():
        return
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(FOLDER)]
    # Without the constraints of `make`: they are for what is installed into its environment.
    environment = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
    try:
        subprocess.run([*command, f"transformer-ranker=={VERSION}"], env=environment, check=True)
    except subprocess.CalledProcessError:
        raise RuntimeError(
            f"pip could not install transformer-ranker {VERSION}, for the reason above: look at the network, and try"
            " again"
        ) from None


def installed() -> bool:
    return (FOLDER / f"transformer_ranker-{VERSION}.dist-info").exists()


def load(module: str = "transformer_ranker"):
    """Import it, in this process, so that it says what goes wrong alone."""
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))
    found = import_module(module)
    logging.getLogger("transformer_ranker").setLevel(logging.WARNING)
    return found


def layers(model: str, data: str, measured: int, tested: int) -> dict:
    """What each of its estimators says of each layer (it has no layer 0), and seconds."""
    pairs = split(data, measured, tested).measured
    embedder = load("transformer_ranker.embedder").Embedder(
        backbone(model), tokenizer=_tokenizer(model), sentence_pooling="mean", device="cpu"
    )
    begin = time.perf_counter()
    embeddings = embedder.embed([text for text, _ in pairs], show_progress=False)
    seconds = {"pass": time.perf_counter() - begin}
    labels = torch.tensor([label for _, label in pairs])
    estimators = load("transformer_ranker.estimators")
    found: dict[int, dict[str, float]] = {layer: {} for layer in range(1, embedder.num_layers + 1)}
    for name, estimator in ESTIMATORS.items():
        begin = time.perf_counter()
        for layer, said in found.items():
            states = torch.stack([each[layer - 1] for each in embeddings])
            said[name] = getattr(estimators, estimator)().fit(embeddings=states, labels=labels)
        seconds[name] = time.perf_counter() - begin
    return {"layers": found, "seconds": seconds}


def cost(model: str, data: str, n: int, texts_a_call: int) -> dict:
    """Of one of its estimators, the default, on all layers of a model in memory."""
    datasets = import_module("datasets")
    package = load()
    decoder = backbone(model)
    texts, labels = zip(*same_length(data, n, tokenizer(model)), strict=True)
    rows = datasets.Dataset.from_dict({"text": texts, "label": labels})
    meter = Meter(decoder)
    meter.watch("gathering", load("transformer_ranker.embedder").Embedder, ["embed"])
    meter.watch("estimation", package.TransformerRanker, ["_transferability_score"])

    def work():
        ranker = package.TransformerRanker(rows, text_column="text", label_column="label")
        options = {"estimator": "hscore", "layer_aggregator": "bestlayer", "tokenizer": _tokenizer(model)}
        ranker.run([decoder], batch_size=texts_a_call, device="cpu", **options)

    return meter.of(work)


def _tokenizer(model: str):
    """As it loads one itself, but that texts end after so many tokens."""
    return AutoTokenizer.from_pretrained(FOLDERS[model](), add_prefix_space=True, model_max_length=LENGTH)
