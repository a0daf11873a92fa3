"""Programs to run and to copy from; offline.py also serves the benchmarks and tests."""
