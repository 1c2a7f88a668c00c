"""A trainer without torch that writes the same files as ours: heartbeat, metrics, checkpoints with manifests, result."""
