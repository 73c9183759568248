"""Run many small jobs through the queue with the project's client; use results as they come.

A queue to talk to: `sandboxed up` in another terminal.
"""

import sys

from producer import Client, Job, Limits

SCRIPT = """
import sys
number = int(sys.argv[1])
print(sum(divisor for divisor in range(1, number) if number % divisor == 0) == number)
"""


def main() -> int:
    """Ask for each number up to 500, in its own jail, whether it is perfect."""
    jobs = (
        Job(SCRIPT, args=(str(number),), limits=Limits(wall_time=2), labels={"n": str(number)})
        for number in range(1, 501)
    )
    perfect = []
    with Client() as client:
        for job, result in client.map(jobs):
            if not result.ok:
                print(f"{job.labels['n']}: {result.status}", file=sys.stderr)
                return 1
            if result.text.strip() == "True":
                perfect.append(int(job.labels["n"]))
    print("perfect numbers:", *sorted(perfect))
    return 0


if __name__ == "__main__":
    sys.exit(main())
