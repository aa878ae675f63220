"""The picture of the terminal in the README shows what `make demo` prints."""

import html
import io
import os
import pty
import re
import subprocess
import termios

import pytest
from package import PROJECT
from rich.console import Console
from rich.text import Text
from terminal import read_terminal


def test_the_picture_is_of_the_demo_as_it_is(pytestconfig: pytest.Config) -> None:
    """`--update-golden` takes it anew."""
    columns = 80
    terminal, stdout = pty.openpty()
    termios.tcsetwinsize(stdout, (24, columns))
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "TERM": "xterm", "TZ": "UTC"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen([PROJECT / "examples/demo"], stdout=stdout, env=environment) as demo:
        os.close(stdout)
        seen = b"".join(iter(lambda: read_terminal(terminal), b"")).decode()
    os.close(terminal)
    assert demo.returncode == 0
    lines = Text.from_ansi(seen.replace("\r\n", "\n")).split("\n", allow_blank=True)
    heads = [index for index, line in enumerate(lines) if line.plain.startswith("# ")]
    shown = lines[heads[1] : heads[4] - 1]
    console = Console(
        record=True, width=columns, file=io.StringIO(), color_system="truecolor",
        force_terminal=True,
    )  # fmt: skip
    for line in shown:
        console.print(line, soft_wrap=True)
    picture = PROJECT / "docs/demo.svg"
    if pytestconfig.getoption("update_golden"):
        # without the font from the web: a page that shows the picture asks nobody for it
        svg = console.export_svg(title="make demo", unique_id="demo")
        picture.write_text(re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL))
    texts = re.findall(r"<text [^>]*y=\"([\d.]+)\"[^>]*>(.*?)</text>", picture.read_text())
    pictured: dict[str, str] = {}
    for height, text in texts:
        pictured[height] = pictured.get(height, "") + html.unescape(text).replace("\xa0", " ")
    words = [" ".join(text.split()) for text in pictured.values()]
    assert [word for word in words if word][1:] == [
        " ".join(line.plain.split()) for line in shown if line.plain
    ]
