"""Accepts what is {{offset}} away; with `half` an odd answer gets half of the points only."""

import sys

wanted = int(open(sys.argv[2]).read())
words = sys.stdin.read().split()
with open(sys.argv[3] + "judgemessage.txt", "w") as message:
    message.write(f"{words} near {wanted}")
if len(words) != 1 or abs(int(words[0]) - wanted) != {{offset}}:
    sys.exit(43)
if "half" in sys.argv:
    with open(sys.argv[3] + "score_multiplier.txt", "w") as score:
        score.write("0.5" if int(words[0]) < wanted else "1")
sys.exit(42)
