"""One reader per source; ``registry`` finds them by name."""
