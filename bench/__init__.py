"""Benchmarks against peers: `python -m bench.train`, `.recipes`, `.preprocess`, `.overhead`, `.serve`, `.abuse`.

Each prints a ratio whose two sides were measured in turn in the same run. The figures are in RESULTS.md.
"""
