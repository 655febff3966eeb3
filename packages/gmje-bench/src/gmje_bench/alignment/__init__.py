"""Alignment on fixed embeddings whose truth is known: tasks, metrics, rivals, and the figure."""
