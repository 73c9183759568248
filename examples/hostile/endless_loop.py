"""Compute for ever. The time limit ends it."""

print("round and round", flush=True)
while True:
    pass
