"""What follows from what was measured; nothing is measured here."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from treadle._core.cores import read_quota
from treadle._crew.deciding import Kind, Measures, judge, make_out
from treadle._crew.gil_probe import LATE_SECONDS, MAX_KNOCKS, MIN_KNOCKS, Knocks

# Kinds of work on two cores: the share that one thread computes, the share in which the GIL was found held, how much
# further two threads get than one, and what it is.
WORK: list[tuple[str, float, float, float, Kind]] = [
    ("sleep, socket", 0.02, 0.03, 2.0, "waits"),
    ("4 ms of sleep and some Python", 0.21, 0.12, 2.0, "computes without the GIL"),
    ("a loop, json.loads, tiny sha256", 1.0, 1.0, 1.0, "holds the GIL"),
    ("a loop on a machine that is busy with others", 0.4, 0.9, 1.2, "holds the GIL"),
    ("sha256 of a megabyte, zlib, matmul", 1.0, 0.01, 1.9, "computes without the GIL"),
    ("an aggregate in SQLite", 1.0, 0.05, 1.5, "computes without the GIL"),
    ("many rows from SQLite", 1.0, 0.09, 0.8, "holds the GIL"),
]


@pytest.mark.parametrize(("computing", "held", "gain", "kind"), [row[1:] for row in WORK], ids=[row[0] for row in WORK])
def test_work_is_told_apart(computing: float, held: float, gain: float, kind: Kind) -> None:
    assert judge(Measures(10, 0.02, computing, held, gain)) == kind


def test_nothing_is_measured_that_changes_nothing() -> None:
    """Each measurement costs more than the one before."""
    assert judge(Measures(5000, 0.005, 1.0)) == "tiny"
    assert judge(Measures(3, 0.3, 0.01)) == "waits"
    assert judge(Measures(10, 0.02, 1.0)) == "knock"
    assert judge(Measures(10, 0.02, 1.0, held=1.0)) == "holds the GIL"
    assert judge(Measures(10, 0.02, 1.0, held=0.0)) == "try two"


def test_a_first_call_that_lasts_is_not_tiny() -> None:
    assert judge(Measures(0, 0.02, 1.0)) == "knock"


def test_where_there_is_no_work_for_two_nothing_speaks_for_processes() -> None:
    assert judge(Measures(10, 0.02, 1.0, 0.0, math.inf)) == "computes without the GIL"


def test_calls_with_threads_of_their_own_stay() -> None:
    """As linear algebra has. Two of them get no further than one, for another reason than the GIL."""
    assert judge(Measures(10, 0.02, 1.0, cores=1.9)) == "computes on several cores"
    assert judge(Measures(10, 0.02, 1.0, cores=1.1)) == "knock"


def test_calls_that_wait_as_well_gain_by_more_processes_than_cores() -> None:
    """A millisecond, of which a quarter computes: together they keep the GIL busy."""
    found = Measures(4, 0.004, 0.25, held=0.25)

    assert make_out(found, 0.0, None, workers=8, cores=2).gain == pytest.approx(2.0, abs=0.1)
    assert not make_out(found, 0.0, None, workers=2, cores=2).pays


LOOP = Measures(20, 0.020, 1.0, 1.0)  # a millisecond a call


def test_processes_pay_where_there_is_much_to_compute() -> None:
    bill = make_out(LOOP, 10e-6, 10_000, workers=2)

    assert bill.pays
    assert bill.gain == pytest.approx(1.95, abs=0.05)


def test_the_gain_goes_by_the_cores() -> None:
    assert make_out(LOOP, 0.0, None, workers=8).gain == pytest.approx(8.0, abs=0.1)


def test_few_calls_do_not_pay_for_the_start() -> None:
    assert not make_out(LOOP, 10e-6, 30, workers=2).pays
    assert make_out(LOOP, 10e-6, None, workers=2).pays  # nobody knows how many: there may be more


def test_a_start_that_takes_long_takes_more_to_pay() -> None:
    assert make_out(LOOP, 10e-6, 1000, workers=2).pays
    assert not make_out(LOOP, 10e-6, 1000, workers=2, start=1.0).pays


def test_arguments_that_take_as_long_to_pickle_as_to_work_on_do_not_pay() -> None:
    assert not make_out(LOOP, 0.001, None, workers=2).pays


def test_calls_that_wait_most_of_the_time_gain_little() -> None:
    assert not make_out(Measures(20, 0.020, 0.35, 0.5), 0.0, None, workers=2).pays


# Knocks


def knocks(late: float, count: int) -> Knocks:
    found = Knocks()
    for _ in range(count):
        found.note(late)
    return found


def test_some_knocks_are_enough_where_they_agree() -> None:
    for late in (0.0, 0.005):
        assert not knocks(late, MIN_KNOCKS - 1).are_enough
        assert knocks(late, MIN_KNOCKS).are_enough


def test_more_knocks_are_needed_where_they_do_not() -> None:
    found = Knocks()
    for at in range(MAX_KNOCKS):
        assert not found.are_enough
        found.note(0.005 if at % 3 == 0 else 0.0)

    assert found.are_enough
    assert found.share() == pytest.approx(1 / 3)


def test_whoever_waited_for_a_processor_has_not_waited_for_the_gil() -> None:
    found = knocks(0.005, 10)

    assert found.share() == 1.0
    assert found.share(in_line=0.05) == pytest.approx(0.0)
    assert found.share(in_line=1.0) == 0.0


def test_no_knock_shows_nothing() -> None:
    assert Knocks().share() == 0.0
    assert knocks(LATE_SECONDS / 2, 10).share(in_line=1.0) == 0.0


# Cores


def test_the_quota_of_a_container_counts(tmp_path: Path) -> None:
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    (tmp_path / "outer" / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "outer" / "inner" / "cpu.max").write_text("max 100000\n")

    assert read_quota("0::/outer/inner\n", tmp_path) == 1.5
    assert read_quota("0::/elsewhere\n", tmp_path) == math.inf


def test_the_quota_of_an_older_container_counts(tmp_path: Path) -> None:
    (tmp_path / "cpu,cpuacct").mkdir()
    (tmp_path / "cpu,cpuacct" / "cpu.cfs_quota_us").write_text("50000\n")
    (tmp_path / "cpu,cpuacct" / "cpu.cfs_period_us").write_text("100000\n")

    assert read_quota("3:cpuset:/x\n2:cpu,cpuacct:/not/shown/here\n", tmp_path) == 0.5
    (tmp_path / "cpu,cpuacct" / "cpu.cfs_quota_us").write_text("-1\n")
    assert read_quota("2:cpu,cpuacct:/\n", tmp_path) == math.inf
