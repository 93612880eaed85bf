"""Predicts files of structures, on any number of ranks."""
