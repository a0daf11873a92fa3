"""Seconds of the processor that each of several parties spends in one run."""

import time
from collections import Counter
from functools import wraps


class Clock:
    """Counts for one party at a time: what a party's function calls counts for that party, unless it is another's.

    Args:
        rest: whose the time is outside all functions.
        unseen: a party in whose functions no other party counts.

    Attributes:
        seconds: by party.

    """

    def __init__(self, rest, unseen):
        self.seconds = Counter()
        self._unseen = unseen
        self._parties = [rest]
        self._since = time.process_time()

    def stop(self):
        """Count until now; returns ``seconds`` and starts them again."""
        self._count()
        found, self.seconds = self.seconds, Counter()
        return found

    def timed(self, party, function):
        """The function, whose time is the party's."""

        @wraps(function)
        def run(*args, **kwargs):
            self._count()
            self._parties.append(self._unseen if self._parties[-1] == self._unseen else party)
            try:
                return function(*args, **kwargs)
            finally:
                self._count()
                self._parties.pop()

        return run

    def watch(self, party, owner, names):
        """Time methods of an object or a class for the party, from now on."""
        for name in names:
            setattr(owner, name, self.timed(party, getattr(owner, name)))

    def _count(self):
        now = time.process_time()
        self.seconds[self._parties[-1]] += now - self._since
        self._since = now
