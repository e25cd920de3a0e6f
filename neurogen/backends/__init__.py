"""One folder a backend, found by name: `emit.py` writes source text, `launch.py` runs it."""
