"""Brings the native files of a source into the raw folder, verified and under their own names."""
