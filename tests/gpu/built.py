"""What tests/gpu/prebuild made, and whether it is of this checkout."""

import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "target" / "gpu"


def git(*arguments):
    """What git says about this checkout; None where there is no git, or it knows no checkout here."""
    try:
        run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return None
    return run.stdout.strip() if run.returncode == 0 else None


def checkout():
    """The commit and whether there is more than was committed; None and False without git."""
    top = git("rev-parse", "--show-toplevel")
    # A copy without git may lie in a folder of something else that has it.
    if top is None or Path(top).resolve() != ROOT:
        return None, False
    return git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))


class Built:
    """A folder that tests/gpu/prebuild made."""

    def __init__(self, folder=FOLDER):
        self.folder = folder.resolve()
        self.manifest = json.loads((self.folder / "manifest.json").read_text())
        self.manifest.setdefault("changed", False)
        self.head, self.changed = checkout()

    def files(self, kind):
        """(name, path) of each file of a kind."""
        files = self.manifest["files"]
        return [(f["name"], self.folder / f["file"]) for f in files if f["kind"] == kind]

    def file(self, kind):
        """The path of the only file of a kind."""
        ((_, path),) = self.files(kind)
        return path

    @property
    def is_current(self):
        """Whether it is known to be of what is checked out here; None where git can't tell."""
        if self.head is None:
            return None
        changed = self.changed or self.manifest["changed"]
        return not changed and self.manifest["commit"] == self.head

    @property
    def sentence(self):
        """Of which commit it is, next to that of the checkout."""
        commit = self.manifest["commit"]
        of = f"built from commit {commit[:12]}" if commit else "built without git"
        if self.manifest["changed"]:
            of += " and changes that were not committed"
        if self.head is None:
            return f"{of}; without git here, it can't be compared"
        here = []
        if commit != self.head:
            here.append(f"is at commit {self.head[:12]}")
        if self.changed:
            here.append("has changes that are not committed")
        return f"{of}; the checkout {' and '.join(here)}" if here else of

    def summary(self):
        """For a file of results."""
        return {
            "commit": self.manifest["commit"],
            "changed": self.manifest["changed"],
            "checkout_commit": self.head,
            "checkout_changed": self.changed,
        }
