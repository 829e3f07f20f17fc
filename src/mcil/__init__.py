"""Multimodal class-incremental learning."""
