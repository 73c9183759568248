"""A request to stop a job, from any thread."""

import os
import select


class Cancel:
    """A request to stop a job, that any thread may make; give one to `Sandbox.run`."""

    def __init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def set(self) -> None:
        """Ask for the job to be stopped."""
        os.eventfd_write(self._event, 1)

    def fileno(self) -> int:
        """Give a descriptor that is readable once the job is to be stopped."""
        return self._event

    def is_set(self) -> bool:
        """Whether the job is to be stopped."""
        poll = select.poll()
        poll.register(self._event, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Let go of the descriptor."""
        if self._event >= 0:
            os.close(self._event)
            self._event = -1

    def __del__(self) -> None:
        self.close()
