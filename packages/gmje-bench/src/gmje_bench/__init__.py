"""gmje_bench."""
