"""Benchmarks: Millet and its peers in turn, in one process tree, held against the measured roof of the machine."""
