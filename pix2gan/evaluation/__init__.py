"""Metrics of translated images, and reports of folders and of held-out data."""
