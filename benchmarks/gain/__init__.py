"""What LoRA gains over a probe, and what tells it before: ``python -m benchmarks.gain`` answers with STUDY.md.

Each file imports from those before it: settings, texts, machine, timing, bases, training, analysis, report.
"""
