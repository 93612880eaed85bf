"""Stage evaluate: test errors of every model on every source."""
