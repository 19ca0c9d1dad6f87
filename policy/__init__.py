"""The decision core: state and ``now`` in, decision out; no Flink, no I/O, no clock, no randomness."""
