"""Fuzzing: hostile checkpoints, operator calls, recipes and data files (docs/fuzzing.md)."""
