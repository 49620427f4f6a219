"""What thresholds may be tuned on. Other figures, and other functions, than the judge's."""

from __future__ import annotations

from bench.deciding import calls
from bench.deciding.kinds import (
    computing,
    first_one_then_another,
    in_a_closure,
    mixed,
    server,
    waiting,
    with_data,
)

TUNED = (
    waiting("waits", (0.080, 0.040, 0.001)),
    mixed("waits and computes by halves", (0.010, 0.002, 0.000_1), (200_000, 40_000, 2_000)),
    server("server with 12 places", (0.030, 0.010, 0.000_5), places=12),
    server("server, slower beyond 60 inside", (0.050, 0.020, 0.001), knee=60),
    server("server, refuses beyond 15 inside", (0.030, 0.010, 0.001), refuses_beyond=15),
    computing("adds up", calls.add, int, (400_000, 50_000, 500)),
    with_data("zlib of large data", calls.compress, (2_000_000, 200_000, 4_000)),
    computing("multiplies matrices", calls.multiply, int, (600, 150, 16)),
    computing("returns lists", calls.list_squares, int, (100_000, 10_000, 100)),
    in_a_closure("computes, in a closure", (500_000, 50_000, 500)),
    first_one_then_another("waits, then computes", (0.005, 0), 0.1, then=((0.0, 0.0, 0.0), (300_000, 30_000, 400))),
)
