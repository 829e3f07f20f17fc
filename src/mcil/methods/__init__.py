"""Class-incremental methods: one file each, registered by name."""

from mcil.methods.base import METHODS, ClosedForm, GradientMethod, Method, ReplayMethod, create_method, describe_methods

__all__ = ["METHODS", "ClosedForm", "GradientMethod", "Method", "ReplayMethod", "create_method", "describe_methods"]
