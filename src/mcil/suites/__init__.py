"""Comparison suites: many methods on the same data, with the tables and figures of the paper."""
