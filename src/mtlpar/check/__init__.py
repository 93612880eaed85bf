"""Physics checks of a model: what must hold at any weights, measured on the model as it is.

A check moves or cuts structures in a way whose effect is known exactly, predicts before and after,
and reports the largest deviation. `suite.check_branch` runs all of them.
"""
