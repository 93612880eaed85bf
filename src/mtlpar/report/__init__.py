"""Stage report: tables and figures out of what the other stages measured."""
