"""The places where mountd looks for its manifest, on a machine of the test's own."""

import os
from collections.abc import Mapping
from pathlib import Path

from world import MOUNTD, Result, World, run

ETC, RUN, USR = (f"{folder}/mountd.toml" for folder in ("/etc", "/run", "/usr/lib"))
SERVICE, SYSTEM = "/run/credentials/mountd.service", "/run/credentials/@system"
Files = Mapping[str, str]


class Machine(World):
    """A world in which /etc, /run and /usr/lib may be written, and the search path is in use."""

    def __init__(self, world: World) -> None:
        super().__init__(world.path)
        for folder in ("/etc", "/run", "/usr/lib"):
            self._cover(folder)

    def _cover(self, folder: str) -> None:
        """Have links to what a folder holds in its place, so that what is added is ours alone."""
        original, cover = (self / f"{name}{folder}" for name in ("original", "cover"))
        original.mkdir(parents=True)
        cover.mkdir(parents=True)
        run("mount", "--rbind", folder, str(original))
        for name in os.listdir(original):
            if not name.startswith(("mountd", "credentials")):
                (cover / name).symlink_to(original / name)
        run("mount", "--bind", str(cover), folder)

    def put(self, files: Files) -> None:
        """Write files, their folders with them; `$` in a text stands for the world's path."""
        for name, text in files.items():
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            if text.startswith("-> "):
                path.symlink_to(text[3:])
            else:
                path.write_text(text.replace("$", self.path))

    def command(self, *words: str, env: Mapping[str, str] | None = None) -> Result:
        """Run mountd without --manifest."""
        return self.run([MOUNTD, *words, "--state-dir", self.state], env=env)


def volume(name: str, *more: str) -> str:
    """A volume of this name, on whose target nothing depends."""
    head = f'[volumes.{name}]\nsource = "$/source"\ntarget = "$/{name}"\n'
    return head + "".join(f"{each}\n" for each in more)
