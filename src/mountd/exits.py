"""Exit statuses, as DESIGN.md has them; those above 63 are sysexits(3head)'s."""

OK = 0
FAILED = 1
CHANGES = 2
USAGE = 64
LOCKED = 75
UNPRIVILEGED = 77
BAD_MANIFEST = 78
INTERRUPTED = 130
