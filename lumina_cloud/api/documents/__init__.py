"""The documents that `--json` prints, one file a subject.

Their schemas are docs/reference/json/*.json, written by `make docs`.
"""

SCHEMA_VERSION = 1
"""Rises when a key goes or changes its meaning. A new key leaves it as it is: a reader passes over keys that it does not know."""
