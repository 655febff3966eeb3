"""gmje_core."""
