"""The judge's list: what Treadle is judged by. It was written before anything was tuned, and is not tuned on."""

from __future__ import annotations

from bench.deciding import calls
from bench.deciding.kinds import (
    addresses,
    computing,
    files,
    first_one_then_another,
    heavy_tailed,
    in_a_closure,
    json_text,
    mixed,
    of_two_kinds,
    rows,
    server,
    waiting,
    with_data,
)

# Figures in brackets: for 30 items, for 1,000 and for 100,000.
JUDGED = (
    waiting("waits, with a long tail", (0.060, 0.030, 0.002), sigma=0.8),
    mixed("waits, then computes a little", (0.040, 0.015, 0.001), (20_000, 8_000, 400)),
    of_two_kinds("every fifth waits, others compute", (0.050, 0.010, 0.000_5), (100_000, 20_000, 400), every=5),
    server("server with 5 places", (0.040, 0.005, 0.000_1), places=5),
    server("server with 50 places", (0.050, 0.025, 0.001), places=50),
    server("server, slower beyond 24 inside", (0.040, 0.015, 0.001), knee=24),
    server("server, refuses beyond 40 inside", (0.040, 0.020, 0.002), refuses_beyond=40),
    files("reads files of 64 KB", 65_536),
    computing("parses JSON", calls.parse_json, json_text, (30_000, 2_500, 32)),
    computing("regular expressions", calls.find_addresses, addresses, (40_000, 2_400, 24)),
    heavy_tailed("counts primes, with a heavy tail", calls.count_primes, (6_000, 400, 10), alpha=1.2),
    computing("small NumPy", calls.add_arrays, int, (15_000, 1_500, 20)),
    with_data("SHA-256 of bytes", calls.hash_bytes, (40_000_000, 3_000_000, 30_000)),
    with_data("zlib of bytes", calls.compress, (8_000_000, 500_000, 1_500)),
    rows("fetches rows of SQLite", (20_000, 4_000, 24)),
    with_data("counts lines of large arguments", calls.count_lines, (10_000_000, 1_000_000, 20_000)),
    computing("returns long lists", calls.list_squares, int, (500_000, 60_000, 700)),
    in_a_closure("computes, in a closure with a lock", (600_000, 50_000, 600)),
    computing("next number: tiny", calls.next_number, int, (1, 1, 1)),
    first_one_then_another("tiny, then the last tenth waits", (0.0, 1), 0.9, then=((0.200, 0.050, 0.005), (0, 0, 0))),
)
