"""The tables and figures of docs/FIRST_STUDY.md."""
