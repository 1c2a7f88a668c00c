"""The documents that `--json` prints, one file a subject."""
