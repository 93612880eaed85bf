"""Measures what layouts cost: memory per rank, scaling, and the rates of a machine."""
