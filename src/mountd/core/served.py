"""Which filesystems somebody else serves: what is asked of them may never be answered."""


def has_server(fs_type: str) -> bool:
    """Whether a filesystem asks a server, which has a say of its own."""
    return fs_type.startswith(_SERVERS) and fs_type not in _WITHOUT


def is_served(fs_type: str) -> bool:
    """Whether a call on it may wait for ever: for a server, or for who mounts what is asked for."""
    return fs_type == "autofs" or has_server(fs_type)


def asks_at_its_root(fs_type: str) -> bool:
    """Whether already a walk that ends at a mount's root may wait, not only one that goes on.

    The kernel looks at such a root again (d_weak_revalidate, d_manage); at FUSE's it doesn't.
    """
    return is_served(fs_type) and not fs_type.startswith(("fuse", "virtiofs"))


_SERVERS = (
    "fuse", "virtiofs", "nfs", "9p", "cifs", "smb", "ceph", "afs", "coda", "orangefs", "lustre",
    "beegfs", "gpfs", "vboxsf", "prl_", "vmhgfs",
)  # fmt: skip
_WITHOUT = ("fusectl", "nfsd")
"""What has such a name and is the kernel's own."""
