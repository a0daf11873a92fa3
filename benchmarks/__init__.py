"""What the package costs, and what its number says: ``python -m benchmarks.NAME`` from the root of the repository."""
