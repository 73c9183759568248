"""Take memory until there is no more. The jail is killed at its limit, and only the jail."""

print("hungry", flush=True)
hoard = []
while True:
    hoard.append(bytearray(1 << 20))
