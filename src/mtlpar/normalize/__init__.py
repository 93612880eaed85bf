"""Stage normalize: splits, exact duplicates and per-element reference energies."""
