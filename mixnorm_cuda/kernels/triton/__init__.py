"""Triton kernels: compiled on first use, for any GPU that Triton supports.

Kernel bodies are in files of one stem per method (`posterior`, `moments`, `normalize`, `gradients`,
...), what launches them in `launch_*.py`, tile sizes in `config.py`. Only `ops.py` and what it
imports on first use need Triton; `backend.py` says why it is not usable.
"""
