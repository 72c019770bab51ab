"""Kernels in C++: their sources in `src/`, how they are compiled, and how Python calls them."""
