"""Generator of the embedded sample: five small sources in their native file formats.

The sources differ in chemistry and in level of theory, as the real ones do, but everything is
computed with extended tight binding and is meant for tests and demonstrations only.

    python -m tools.sample --out workflow/sample
"""
