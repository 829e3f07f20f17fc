"""Measurements that are not part of the package: each module is a script, ``python -m benchmarks.NAME``."""
