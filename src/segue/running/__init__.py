"""Running recipes: once, again, many times, on a cluster."""
