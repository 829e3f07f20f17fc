"""Class-incremental methods: one file each, registered by name."""

from mcil.methods.base import METHODS, ClosedForm, GradientMethod, Method, ReplayMethod, create_method

__all__ = ["METHODS", "ClosedForm", "GradientMethod", "Method", "ReplayMethod", "create_method"]
