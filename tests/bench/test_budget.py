"""What one request costs: what strace and perf say, and the table of it."""

from __future__ import annotations

import os

from benchmarks.budget import Readings, parse_perf, parse_strace, table

STRACE = """
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 84.33   14.260082        4192      3401       633 futex
  1.25    0.211237          18     11536           pwrite64
------ ----------- ----------- --------- --------- ----------------
100.00   16.910012         195     14937       633 total
"""
PERF = """
# Children      Self  Symbol
    24.00%     0.31%  [k] __x64_sys_pwrite64
     9.43%     0.38%  [k] ext4_da_write_begin
     5.90%     5.83%  [.] _PyEval_EvalFrameDefault
"""


def test_counts_and_shares_are_read_from_what_the_programs_print():
    """System calls only; a total is none."""
    assert parse_strace(STRACE) == {"futex": 3401, "pwrite64": 11536}
    assert parse_perf(PERF) == {"pwrite64": 0.24}


def test_a_line_of_the_table_is_a_node():
    """Each figure divided by the requests of the run that it is from."""
    used = Readings(1.0, 2.0, 500_000)
    text = table("writes", 1_000_000, {"Primary": (used, parse_perf(PERF), {"futex": 0.25, "pwrite64": 1.0})})
    assert text.splitlines()[-1] == "| Primary | 1.0 | 2.0 | 0.50 | pwrite64 1.00, futex 0.25 | pwrite64 24% |"


def test_a_process_can_be_read():
    """This one, and nothing has been taken back since."""
    before = Readings.take(os.getpid())
    after = Readings.take(os.getpid()).since(before)
    assert min(after.user_s, after.kernel_s, after.sleeps) >= 0
