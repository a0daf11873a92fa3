"""Can a user decide by the numbers? ``python -m benchmarks.decisions`` answers with STUDY.md.

``settings`` says what is run and ``windows`` reads the texts; ``bases`` and ``training`` make the rows, of the numbers
in ``measures`` and ``label_counts``; ``analysis`` asks the decisions of them, ``report`` writes tables and figures.
"""
