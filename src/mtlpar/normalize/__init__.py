"""Stage normalize: splits, duplicates and per-element reference energies."""
