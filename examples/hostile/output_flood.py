"""Print without end. Output is kept up to the limit, then the script is killed."""

while True:
    print("flood " * 1000)
