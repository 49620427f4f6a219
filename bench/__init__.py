"""Benchmarks: Treadle and its peers side by side, as ratios measured in one go. Run ``python -m bench``."""
