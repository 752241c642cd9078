"""DRBD in user space: see ARCHITECTURE.md."""

__all__ = ["__version__"]

__version__ = "0.1.0"
