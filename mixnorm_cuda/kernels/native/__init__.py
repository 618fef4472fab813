"""C++ and CUDA operators: the loader of their libraries, raw operators, fake implementations."""
