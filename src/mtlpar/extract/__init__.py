"""Turns native files into columns, with every row accounted for."""
