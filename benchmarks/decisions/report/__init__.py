"""The tables and figures of STUDY.md."""
