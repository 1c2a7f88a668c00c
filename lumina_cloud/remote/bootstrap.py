"""Starts the trainer on a machine: a script in plain POSIX shell, made from a template, that may be run twice."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lumina_cloud.core import templates, untrusted
from lumina_cloud.core.errors import ProviderError

if TYPE_CHECKING:
    from lumina_cloud.remote.box import Box

STARTED_MARKER = "started"
"""Exists on the machine from the moment at which the supervisor was started."""

START_SECONDS = 180.0
LEAST_DISK_MIB = 512


def script(python: str) -> str:
    """Return the bootstrap for a machine whose interpreter is `python`."""
    environment = Environment(
        loader=FileSystemLoader(templates.folder()),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701  # a shell script, not a page: every value is quoted for the shell
        keep_trailing_newline=True,
    )
    template = environment.get_template("bootstrap.sh.j2")
    return template.render(python=shlex.quote(python), marker=STARTED_MARKER, disk_mib=LEAST_DISK_MIB)


def start(box: Box, python: str) -> None:
    """Run the bootstrap. Raises ProviderError with what the machine said when it cannot train."""
    box.write("bundle/bootstrap.sh", script(python).encode())
    done = box.run(["sh", "bundle/bootstrap.sh"], timeout=START_SECONDS)
    if done.returncode != 0:
        said = untrusted.block(done.stderr.strip() or done.stdout.strip(), max_lines=5) or f"exit code {done.returncode}"
        raise ProviderError(f"the machine cannot train: {said}", "lumina resume rents another one")
