"""What `benchmarks/engine.py` is made of: cases, the peers' spellings, turns, limits, reports."""
