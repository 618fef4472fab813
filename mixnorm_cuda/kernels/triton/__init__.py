"""Triton kernels: compiled on first use, for any GPU that Triton supports.

Kernel bodies are in files of one stem per method (`posterior`, `moments`, `normalize`, `gradients`,
...), what launches them in `launch_*.py`, tile sizes in `config.py`. Only what `operators.py`
imports on first use needs Triton; `availability.py` says why it is not usable.
"""
