"""Side-by-side benchmarks: `python -m bnlab.bench NAME` prints one table."""
