a, b = map(float, input().split())
print(a + abs(b))
