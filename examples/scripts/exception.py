"""Fail as scripts do: a traceback on standard error, exit code 1."""

prices = {"bolt": 3}
print("looking up the price of a nut")
print(prices["nut"])
