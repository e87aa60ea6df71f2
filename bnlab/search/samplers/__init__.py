"""Samplers decide which configurations a search tries.

To add one, write its class in a module here and a YAML in `conf/search` whose `_target_` is the full name of the class.
"""
