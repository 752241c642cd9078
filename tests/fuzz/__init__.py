"""Fuzzing by coverage: inputs that reach new lines of the parsers are kept, and changed further (make fuzz)."""
