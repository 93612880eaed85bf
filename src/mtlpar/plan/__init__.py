"""Predicts memory and time of layouts on machines, from counts and a few stated rates."""
