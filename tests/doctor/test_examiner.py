"""Whatever a check does to its process, it becomes a line, and the next check is made."""

import time

import psutil
import pytest

from prune_bench.doctor import Check
from prune_bench.doctor.examiner import Examiner
from tests.doctor.planted import check, subject, verdicts


@pytest.fixture
def examiner():
    with Examiner() as made:
        yield made


def test_lines_come_back_with_values_and_times_and_nothing_that_libraries_print(examiner):
    one, two = examiner.examine(check("well"), subject(device="cuda:7", known={"a": 1}))
    assert (one.verdict, one.words, one.values) == ("pass", "all is well", {"seen": ["a"]})
    assert (two.words, two.values) == ("tiny on cuda:7", {"two": 2})
    assert 0 <= two.seconds < 1


def test_checks_share_a_process_until_one_ends_it(examiner):
    (first,), (second,) = (list(examiner.examine(check("process"), subject())) for _ in range(2))
    assert first.words == second.words
    list(examiner.examine(check("leaves"), subject()))
    (third,) = examiner.examine(check("process"), subject())
    assert third.words != first.words


def test_what_a_check_raises_is_a_line_after_its_others(examiner):
    lines = list(examiner.examine(check("raises"), subject()))
    assert verdicts(lines) == [("raises", "pass"), ("raises", "mend")]
    assert "ArithmeticError: one and one is three" in lines[1].words


def test_after_an_error_of_the_device_the_next_check_has_a_fresh_process(examiner):
    first, error = examiner.examine(check("falls_off_the_bus"), subject())
    assert (first.verdict, error.verdict) == ("pass", "mend")
    assert "illegal memory access" in error.words
    (next_,) = examiner.examine(check("process"), subject())
    assert next_.verdict == "figure"
    assert next_.words != first.words


def test_a_check_that_cannot_be_imported_is_a_line(examiner):
    (line,) = examiner.examine(Check(name="gone", function="tests.doctor.planted:gone"), subject())
    assert (line.verdict, "gone" in line.words) == ("mend", True)


def test_a_check_that_hangs_is_stopped_with_its_children_and_the_next_is_made(examiner):
    list(examiner.examine(check("well"), subject()))  # the process is there, and has imported what it needs
    begun = time.monotonic()
    lines = list(examiner.examine(check("hangs", seconds=1.0), subject()))
    assert time.monotonic() - begun < 5
    assert verdicts(lines) == [("hangs", "pass"), ("hangs", "figure"), ("hangs", "mend")]
    assert "no answer within 1 s, stopped: look elsewhere" in lines[2].words
    child = int(lines[1].words)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
    assert verdicts(examiner.examine(check("well"), subject())) == [("well", "pass"), ("well", "figure")]


def test_a_check_that_crashes_says_how_and_what_was_said_last(examiner):
    (line,) = examiner.examine(check("crashes"), subject())
    assert line.verdict == "mend"
    assert "SIGSEGV" in line.words
    assert "the GPU has fallen off the bus" in line.words
    (line,) = examiner.examine(check("leaves"), subject())
    assert "exit code 3" in line.words


def test_no_process_is_left_behind():
    with Examiner() as examiner:
        (line,) = examiner.examine(check("process"), subject())
    assert not psutil.pid_exists(int(line.words))
