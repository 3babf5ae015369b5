"""What goes wrong on the way, done on purpose to commands of mixonomy; `benchmarks/survive.py` runs it."""
