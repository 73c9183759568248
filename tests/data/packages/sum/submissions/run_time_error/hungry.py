x = bytearray(200 << 20)
print(len(x))
