"""`python -m bnlab.bench chaos`: sweeps that are disturbed at random, resumed, and compared with undisturbed ones.

Each round draws a kind of sweep and what happens to it: kills, stops, a full disk, a memory limit, removed folders,
damaged files, a database that is gone for a while. The sweep is resumed until it says that it is done. Its results must
then be those of the same sweep left alone, bit for bit: the configurations, the metrics of each epoch, the summaries,
the weights and the ranking.
"""

from bnlab.bench.chaos.command import main

__all__ = ["main"]
