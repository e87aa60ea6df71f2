"""`python -m bnlab.bench chaos`: disturb sweeps at random, resume them and compare them with undisturbed ones.

Each round draws a kind of sweep and its disturbances: kills, stops, a full disk, a memory limit, removed folders,
damaged files, a database outage. The sweep is resumed until it says that it is done. Its results must then equal those
of the undisturbed sweep bit for bit: the configurations, the metrics of each epoch, the summaries, the weights and the
ranking.
"""

from bnlab.bench.chaos.command import main

__all__ = ["main"]
