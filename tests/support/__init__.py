"""What tests share: tiny models and data, the oracle, and the writer of COMPATIBILITY.md."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
