"""gmje_hub."""
