"""Does the score mean what it says? ``python -m benchmarks.study`` answers with docs/FIRST_STUDY.md.

Each folder imports from those before it: texts, (settings), training, measures, analysis, report.
"""
