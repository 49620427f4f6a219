"""Treadle: a plain function, many inputs, called many at a time and fully accounted for."""
from treadle._run.mapping import map
from treadle._run.run import Run
__version__ = "0.1.0"
__all__ = ["map"]
