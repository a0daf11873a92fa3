"""The published figures say what the README says they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.oracle import spearman

PUBLISHED = json.loads((Path(__file__).parent / "published_ntps.json").read_text())

GAIN = {
    "Qwen/Qwen2-0.5B": -0.77,
    "Qwen/Qwen2-1.5B": -0.67,
    "Qwen/Qwen2-7B": -0.59,
    "apple/OpenELM-270M": -0.87,
    "apple/OpenELM-450M": -0.87,
    "apple/OpenELM-1_1B": -0.90,
    "apple/OpenELM-3B": -0.52,
    "meta-llama/Meta-Llama-3-8B": -0.40,
}


@pytest.mark.parametrize("model", GAIN)
def test_low_scores_gain_most_from_lora(model):
    rows = PUBLISHED["lora_gain"][model].values()
    gains = [row["lora_accuracy"] - row["probe_accuracy"] for row in rows]
    assert spearman([row["ntps"] for row in rows], gains) == pytest.approx(GAIN[model], abs=0.005)


def test_every_published_model_is_checked():
    assert set(PUBLISHED["lora_gain"]) == set(GAIN)
