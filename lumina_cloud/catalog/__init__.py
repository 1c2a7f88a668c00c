"""Facts as typed data: accelerators, prices, the published benchmark. Each figure with its source, no arithmetic on it."""
