"""Compare pruning methods on equal terms."""
