"""A request to stop a job, from any thread."""

import os
import select


class Cancel:
    """A request to stop a job, that any thread may make; give one to `Sandbox.run`.

    One that is made with `also` counts as set where that one is.
    """

    def __init__(self, also: "Cancel | None" = None) -> None:
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._either: select.epoll | None = None
        if also is not None:
            self._either = select.epoll()  # readable where one of its descriptors is (epoll(7))
            self._either.register(self._event, select.EPOLLIN)
            self._either.register(also.fileno(), select.EPOLLIN)

    def set(self) -> None:
        """Ask for the job to be stopped."""
        os.eventfd_write(self._event, 1)

    def fileno(self) -> int:
        """Give a descriptor that is readable once the job is to be stopped."""
        return self._event if self._either is None else self._either.fileno()

    def is_set(self) -> bool:
        """Whether the job is to be stopped."""
        poll = select.poll()
        poll.register(self, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Let go of the descriptors."""
        if self._either is not None:
            self._either.close()
        if self._event >= 0:
            os.close(self._event)
            self._event = -1

    def __del__(self) -> None:
        self.close()
