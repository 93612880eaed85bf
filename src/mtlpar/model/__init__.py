"""The network: a shared equivariant encoder and one branch of heads per group of sources.

Nothing here knows about ranks: parallelism is applied to a finished model from outside.
"""
