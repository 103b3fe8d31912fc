"""Finds the voxtile program and runs it beside the application, as its command line module."""

import os
import queue
import re
import shutil
import subprocess
import threading
from pathlib import Path

_PROGRESS = re.compile(r"<filter-progress>([0-9.]+)</filter-progress>")
_TAG = re.compile(r"</?filter-[a-z-]+>")
_NAME = "voxtile.exe" if os.name == "nt" else "voxtile"


class ProgramError(RuntimeError):
    """Something the user can mend; the text says how."""


def find_program(folders=()):
    """The program in one of the folders, or on the PATH."""
    for folder in folders:
        path = Path(folder) / _NAME
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
    found = shutil.which(_NAME)
    if found is None:
        places = ", ".join(str(folder) for folder in folders) or "no folder"
        raise ProgramError(
            f"The program {_NAME} was not found, neither in {places} nor on the PATH. "
            "Install the extension again, or put the program on the PATH."
        )
    return found


def check_model(path):
    """The model package, which must be there."""
    if not path:
        raise ProgramError(
            "No model is chosen. Choose a model package (.safetensors); "
            "`voxtile convert` makes them of nnU-Net and STU-Net checkpoints."
        )
    if not Path(path).is_file():
        raise ProgramError(f"The model {path} does not exist. Choose another model package.")
    return str(path)


class Run:
    """The program at work. `poll` from the application's event loop: it never waits.

    `progress` goes from 0 to 1. Once `done`, `error` is None if all went well, and `cancelled` says
    whether the user ended it. `log` has what the program said.
    """

    def __init__(self, program, image, output, model, device="auto", threads=0, mirror=False, labels=""):
        command = [program, "--model", check_model(model), "--device", device]
        command += ["--threads", str(threads)]
        if mirror:
            command.append("--mirror")
        if labels.strip():
            command += ["--labels", labels.strip()]
        command += [str(image), str(output)]
        self.progress = 0.0
        self.done = False
        self.cancelled = False
        self.error = None
        self.log = []
        self._errors = []
        self._output = Path(output)
        self._lines = queue.Queue()
        hidden = {"creationflags": subprocess.CREATE_NO_WINDOW} if os.name == "nt" else {}
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                **hidden,
            )
        except OSError as error:
            raise ProgramError(f"{program} can't be started: {error}") from error
        streams = ((self._process.stdout, self.log), (self._process.stderr, self._errors))
        self._readers = [threading.Thread(target=self._read, args=pair, daemon=True) for pair in streams]
        for reader in self._readers:
            reader.start()

    def _read(self, stream, lines):
        for line in stream:
            self._lines.put((lines, line.rstrip()))
        stream.close()

    def _take_lines(self):
        while True:
            try:
                lines, line = self._lines.get_nowait()
            except queue.Empty:
                return
            found = _PROGRESS.search(line)
            if found and lines is self.log:
                self.progress = max(self.progress, min(1.0, float(found.group(1))))
            elif line and not _TAG.search(line):
                lines.append(line)

    def poll(self):
        """Takes in what the program has said; whether it has ended."""
        if self.done:
            return True
        ended = self._process.poll() is not None and not any(r.is_alive() for r in self._readers)
        self._take_lines()
        if not ended:
            return False
        self.done = True
        code = self._process.returncode
        if self.cancelled:
            self.error = "Cancelled."
        elif code != 0:
            said = "\n".join(self._errors).removeprefix("error: ")
            self.error = said or f"The program ended with code {code} and said nothing."
        elif not self._output.is_file():
            self.error = f"The program wrote no {self._output}."
        return True

    def cancel(self):
        """Ends the program; it leaves no output."""
        if not self.done:
            self.cancelled = True
            self._process.kill()
