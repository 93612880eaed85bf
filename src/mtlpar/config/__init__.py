"""The configuration: typed, frozen, closed, and checked before anything runs."""

from mtlpar.config.load import load_config, parse_assignment
from mtlpar.config.schema import Config, ModelEntry, json_schema

__all__ = ["Config", "ModelEntry", "json_schema", "load_config", "parse_assignment"]
