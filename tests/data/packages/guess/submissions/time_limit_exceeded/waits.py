print(1, flush=True)
if input() != 'correct':
    input()
