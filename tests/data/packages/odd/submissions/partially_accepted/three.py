a, _, c = input(), input(), input()
print(a)
print(c)
