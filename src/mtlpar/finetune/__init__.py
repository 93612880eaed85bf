"""Fine-tunes and distills model files, by the stages of the workflow in a folder apart."""
