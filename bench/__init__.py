"""Benchmarks that anyone can rerun: `make bench`, or `python -m bench PART ...`."""
