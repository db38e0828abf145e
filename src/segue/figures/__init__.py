"""How figures look and where they are written."""
