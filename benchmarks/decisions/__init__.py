"""Can a user decide by the numbers? ``python -m benchmarks.decisions`` answers with STUDY.md.

``settings`` says what is run; ``windows`` reads the texts; ``training`` makes base states and runs, ``measures`` turns both into rows of numbers; ``analysis`` asks the
decisions of the rows, and ``report`` writes tables and figures.
"""
