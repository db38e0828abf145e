"""The demonstration: two drawn worlds."""
