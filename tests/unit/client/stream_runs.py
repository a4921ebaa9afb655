# SPDX-License-Identifier: Apache-2.0
"""Runs a command of the command line several times, each in a forked process that ends as the interpreter does.

    python -m tests.unit.client.stream_runs CASES FOLDER [ARGUMENT]...

CASES is a JSON list of names of ``CASES``; FOLDER is for files. Prints a JSON object: case -> exit code, output, errors.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

CASES = {
    "ascii": {},
    "closed output": {1: None},
    "full": {1: "/dev/full"},
    "pipe": {1: "pipe"},
    "closed input": {0: None},
    "closed errors": {2: None},
    "full errors": {2: "/dev/full"},
    "closed": {0: None, 1: None, 2: None},
}
"""What each descriptor is: closed, a path, or a pipe that nothing reads; other ones are files."""

SLOW_IMPORTS = {
    "evaluate": ("sacrebleu.metrics.bleu", "sacrebleu.metrics.chrf"),
    "serve": ("attnserve_server.cli",),
    "export": ("attnserve_export.bundles",),
}
"""What commands import late, and all runs of one command can share."""


def redirect(case: str, folder: Path) -> None:
    """Sets the descriptors 0 to 2, and the streams of ``sys`` as the interpreter does when it starts."""
    (folder / "in").write_text("ein Hünd\nzwei\n", encoding="utf-8")
    reading, writing = os.pipe()
    os.close(reading)
    files = {0: (folder / "in", os.O_RDONLY), 1: (folder / "out", os.O_WRONLY), 2: (folder / "err", os.O_WRONLY)}
    for number, (file, flags) in files.items():
        target = CASES[case].get(number, str(file))
        if target is not None:
            opened = writing if target == "pipe" else os.open(target, flags | os.O_CREAT)
            os.dup2(opened, number)
            if opened != writing:
                os.close(opened)
    os.close(writing)
    encoding = "ascii" if case == "ascii" else "utf-8"
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if number in CASES[case] and CASES[case][number] is None:
            os.close(number)
            stream = None
        else:
            errors = "backslashreplace" if number == 2 else "strict"
            stream = open(number, "w" if number else "r", encoding=encoding, errors=errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def main(cases: str, folder: str, *arguments: str) -> int:
    from attnserve_client.cli import app, main

    app.build_app()
    for module in SLOW_IMPORTS.get(arguments[0], ()):
        importlib.import_module(module)
    found = {}
    for case in json.loads(cases):
        for name in ("out", "err"):
            (Path(folder) / name).write_bytes(b"")
        pid = os.fork()
        if not pid:
            redirect(case, Path(folder))
            return main(arguments)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        found[case] = [code, *((Path(folder) / name).read_text(encoding="utf-8") for name in ("out", "err"))]
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
