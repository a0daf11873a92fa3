"""Labelled texts out of package archives, and their windows of tokens."""
