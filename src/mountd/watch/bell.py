"""What wakes the loop: signals, and threads that have seen something."""

import os
import select
from contextlib import suppress


class Bell:
    """A pipe (pipe(7)) that is read by one thread and rung by any."""

    def __init__(self) -> None:
        self._out, self.rope = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def fileno(self) -> int:
        """What can be polled for POLLIN while it rings."""
        return self._out

    def ring(self) -> None:
        """Wake whoever waits for it."""
        with suppress(BlockingIOError):  # it is ringing
            os.write(self.rope, b"\0")

    def hear(self) -> None:
        """Have it stop."""
        with suppress(BlockingIOError):
            while os.read(self._out, 512):
                pass

    def wait(self, seconds: float) -> None:
        """Wait for a ring, and for nothing else."""
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        if poll.poll(seconds * 1000):
            self.hear()
