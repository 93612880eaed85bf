"""Stage train: pre-trains one named model on any number of ranks."""
