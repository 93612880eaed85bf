"""Trained models in other simulation engines, through the interfaces of those engines."""
