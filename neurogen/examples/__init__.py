"""Runnable examples: `python -m neurogen.examples.NAME`."""
