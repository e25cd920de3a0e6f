"""YAML text to Program to source text. Start at `pipeline.py`; nothing here imports torch."""
