"""What can go wrong that is not the script's own doing.

A script that fails is a value (`sandbox_core.job.Result`); these are the exceptions.
"""


class InvalidJob(ValueError):
    """The job can't be run as it was asked for; the text says which part of it and why."""


class SandboxError(RuntimeError):
    """The sandbox could not do its work; never the script's fault.

    `step` is the step of the jail (or of its supervisor) that failed, `reason` says why; both are in
    the text. The job may be run again: it has not been judged.
    """

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(f"{step}: {reason}")
        self.step = step
        self.reason = reason

    def __reduce__(self) -> tuple[type["SandboxError"], tuple[str, str]]:
        return SandboxError, (self.step, self.reason)  # an exception crosses processes in Celery
