"""The decisions: pure functions and tables; time and chance come in as values, effects go out as values."""

__all__: list[str] = []
