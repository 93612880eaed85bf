"""The computer that the workflow runs on: its jobs, its profiles, and its faults."""
