#!/usr/bin/env python3
"""Does what the pages for users say, as a new user would, and fails where something else happens.

    python3 tests/docs/run.py [c.md ...]

Each page of docs/ gets an empty folder with nothing but `voxtile`, a link to this checkout. Its blocks
are, by the first line of their fence:

    ```cpp organs.cpp     a file of that name (any language, and lines of it stay as they are)
    ```sh                 commands for bash, which stop at the first that fails; what one block sets,
                          the next has
    ```text               what the commands of the block before printed, on both outputs

Other blocks are mistakes of the page. `...` in a text stands for anything, over lines where it is
a line of its own; numbers may differ by a thousandth, for processors round differently.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["c.md", "cmake.md", "itk.md", "python.md", "slicer.md", "embedding.md"]
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


class Mistake(Exception):
    """The page says what is not so."""


def blocks(text):
    """Line number, words of the fence's first line, and lines of each block."""
    found, fence = [], None
    for number, line in enumerate(text.splitlines(), 1):
        if fence is None and line.startswith("```"):
            fence = (number, line[3:].split(), [])
        elif fence is not None and line == "```":
            found.append(fence)
            fence = None
        elif fence is not None:
            fence[2].append(line)
        elif "```" in line or re.match(r"(    |\t)\S", line):
            raise Mistake(f"line {number}: a block must begin with ``` at the line's start")
    if fence is not None:
        raise Mistake(f"line {fence[0]}: the block does not end")
    return found


def plan(text):
    """The page's files, and its commands with what they print (None where it does not say)."""
    files, steps = {}, []
    last = None
    for number, words, lines in blocks(text):
        body = "\n".join(lines) + "\n"
        if words == ["sh"]:
            steps.append([number, body, None])
        elif words == ["text"]:
            if last != ["sh"]:
                raise Mistake(f"line {number}: a text must follow commands")
            steps[-1][2] = lines
        elif len(words) == 2:
            if words[1] in files or Path(words[1]).is_absolute() or ".." in words[1]:
                raise Mistake(f"line {number}: {words[1]} is there already, or elsewhere")
            files[words[1]] = body
        else:
            raise Mistake(f"line {number}: the block is no commands, no text, and has no file's name")
        last = words
    used = "".join(body for _, body, _ in steps) + "".join(files.values())
    for name in files:
        if Path(name).name not in used.replace(files[name], "", 1) and name != "CMakeLists.txt":
            raise Mistake(f"no command uses {name}")
    return files, steps


def same_line(said, printed):
    """Whether a line is as the page says."""
    if "..." in said:
        pattern = ".*".join(re.escape(part) for part in said.split("..."))
        return re.fullmatch(pattern, printed) is not None
    if NUMBER.sub("0", said) != NUMBER.sub("0", printed):
        return False
    numbers = zip(NUMBER.findall(said), NUMBER.findall(printed))
    return all(one == other or abs(float(one) - float(other)) <= 1e-3 * abs(float(one)) for one, other in numbers)


def same(said, printed):
    """Whether lines are as the page says; a line `...` stands for any number of lines."""
    if not said:
        return not printed
    if said[0].strip() == "...":
        return any(same(said[1:], printed[skipped:]) for skipped in range(len(printed) + 1))
    return bool(printed) and same_line(said[0].rstrip(), printed[0].rstrip()) and same(said[1:], printed[1:])


def printed(path):
    text = path.read_text(errors="replace") if path.exists() else ""
    # Of a line that was written over, what is left to see.
    lines = [line.rstrip("\r").split("\r")[-1].rstrip() for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def run(page, folder):
    """The number of blocks that were run."""
    files, steps = plan(page.read_text())
    work, outputs = folder / "work", folder / "outputs"
    work.mkdir()
    outputs.mkdir()
    (work / "voxtile").symlink_to(ROOT)
    for name, body in files.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_text(body)
    script = ["set -eu"]
    for index, (number, body, _) in enumerate(steps):
        script.append(f"{{\n{body}}} >'{outputs / str(index)}' 2>&1 </dev/null")
        script.append(f"echo {index} >'{outputs / 'done'}'")
    (folder / "script").write_text("\n".join(script) + "\n")
    # Of its own group, so that what it started ends with it.
    shell = subprocess.Popen(["bash", folder / "script"], cwd=work, start_new_session=True)
    try:
        status = shell.wait(timeout=400)
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, signal.SIGKILL)
        status = f"{shell.wait()}: they took more than 400 seconds"
    done = int((outputs / "done").read_text()) if (outputs / "done").exists() else -1
    for index, (number, body, said) in enumerate(steps):
        found = printed(outputs / str(index))
        shown = "\n".join(found[-40:])
        if index > done:
            raise Mistake(f"line {number}: the commands failed with status {status}:\n{body}\n{shown}")
        if said is not None and not same(said, found):
            expected = "\n".join(said)
            raise Mistake(f"line {number}: the commands print\n{shown}\n\nand the page says\n{expected}")
    if not steps:
        raise Mistake("the page has no commands")
    return len(steps) + len(files)


def main(names):
    failed = 0
    for name in names or PAGES:
        folder = Path(tempfile.mkdtemp(prefix="voxtile-docs-"))
        try:
            count = run(ROOT / "docs" / name, folder)
            print(f"docs/{name}: {count} blocks are as it says")
        except Mistake as mistake:
            failed += 1
            print(f"docs/{name}: {mistake}", file=sys.stderr)
        finally:
            shutil.rmtree(folder)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
