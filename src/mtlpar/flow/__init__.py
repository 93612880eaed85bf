"""The flow of stages: what each reads and writes, who writes it, and where it came from."""
