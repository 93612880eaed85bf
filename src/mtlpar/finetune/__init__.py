"""Fine-tunes a model file on a user's own data, by the stages of the workflow in a folder apart."""
