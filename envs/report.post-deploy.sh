#!/bin/sh
# Snakemake runs this once in the new environment, from the folder it was started in: the clone.
python -m pip install --no-deps --no-build-isolation --editable .
