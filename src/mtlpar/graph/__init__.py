"""Neighbour graphs, built when they are needed and never stored."""
