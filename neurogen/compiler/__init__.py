"""YAML text to Program to source text. Start reading at `pipeline.py`; nothing here imports torch."""
