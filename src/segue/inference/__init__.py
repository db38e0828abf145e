"""A trained model in use, and how right it is."""
