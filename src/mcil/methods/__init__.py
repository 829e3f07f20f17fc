"""Class-incremental methods: one file each, registered by name."""

from mcil.methods.base import METHODS, Method, create_method

__all__ = ["METHODS", "Method", "create_method"]
