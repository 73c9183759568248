"""Writes docs/configuration.md out of the table that the worker reads its settings with.

python docs/make_configuration.py
"""

from pathlib import Path

from worker.settings import TABLE

PAGE = Path(__file__).with_name("configuration.md")

_HEAD = """\
# Configuration

Every setting of a worker is a variable of its environment. A bad value is named when the worker starts,
which it then doesn't; a variable that is set to nothing is as good as unset. Sizes take K, M and G
(powers of 1024). Celery's own options, such as `--concurrency` and `--loglevel`, are given to
`celery -A worker worker` or `sandboxed worker`.

<!-- Made by docs/make_configuration.py from worker/settings.py; a test compares. -->

| variable | default | unit | what it is for |
| --- | --- | --- | --- |
"""

_TAIL = """
`SANDBOXED_REDIS_URL` is also what `producer.Client`, `sandboxed submit`, `sandboxed top` and Flower
(`celery -A worker flower`) go by. How to give it a password, TLS and a user of Redis is in
[deploy.md](deploy.md).
"""


def page() -> str:
    """Give the page as it should be."""
    lines = [
        f"| `{setting.variable}` | {f'`{setting.default}`' if setting.default else 'unset'} "
        f"| {setting.unit} | {setting.why} |\n"
        for setting in TABLE.values()
    ]
    return f"{_HEAD}{''.join(lines)}{_TAIL}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
