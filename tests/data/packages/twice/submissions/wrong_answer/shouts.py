print(input().split()[1].upper())
