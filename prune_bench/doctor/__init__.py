"""``prune-bench doctor``: what this machine is fit for, found out before a sweep is begun on it."""

from prune_bench.doctor.lines import Check, Line, Subject, Verdict
from prune_bench.doctor.visit import run_doctor

__all__ = ["Check", "Line", "Subject", "Verdict", "run_doctor"]
