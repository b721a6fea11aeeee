"""Python imports this by itself at start: a child process with this folder on PYTHONPATH has no network."""

from no_network import refuse_network

refuse_network()
