"""Comparison suites: many methods on the same data, with the tables and figures of the paper."""

from mcil.suites.base import SUITES, Settings, Suite
from mcil.suites.bench import bench

__all__ = ["SUITES", "Settings", "Suite", "bench"]
