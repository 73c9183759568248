"""Count the words of standard input, the most frequent first."""

import re
import sys
from collections import Counter

words = Counter(re.findall(r"[a-z']+", sys.stdin.read().lower()))
print(f"{words.total()} words, {len(words)} different")
for word, count in words.most_common(5):
    print(f"{count:6} {word}")
