def numbers():
    return map(float, input().split())
