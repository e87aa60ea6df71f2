"""The config of a run: where its files are, its settings, and whether these are valid."""

from omegaconf import OmegaConf

from bnlab.internals.hydra_internals import register_resolver

# Makes a list of equal widths from two numbers that can be searched: ${repeat:100,3} is [100, 100, 100].
register_resolver("repeat", lambda value, times: OmegaConf.create([value] * times), replace=True)
