"""Prescreening beside a peer, transformer-ranker: ``python -m benchmarks.prescreen``.

``settings`` says what is run and ``texts`` splits the sets; ``ours``, ``peer`` and ``truth`` measure, each in a process
of its own (``child``); ``analysis`` asks of the rows what is printed by ``report``.
"""
