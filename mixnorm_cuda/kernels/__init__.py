"""Compiled kernels, one folder for each way of writing them."""
