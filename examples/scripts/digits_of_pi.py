"""Compute digits of pi with whole numbers alone: a long calculation of nothing but CPU time."""

import sys


def arctan_of_inverse(number: int, unity: int) -> int:
    """Give arctan(1/number), scaled by `unity`."""
    term = total = unity // number
    square, divisor, sign = number * number, 1, 1
    while term:
        term //= square
        divisor += 2
        sign = -sign
        total += sign * (term // divisor)
    return total


digits = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
sys.set_int_max_str_digits(0)  # Python refuses to write more than 4300 digits otherwise
unity = 10 ** (digits + 10)
pi = 4 * (4 * arctan_of_inverse(5, unity) - arctan_of_inverse(239, unity)) // 10**10
text = str(pi)
print(f"3.{text[1:41]}… ends in {text[-10:]}")
