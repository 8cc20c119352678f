"""Trial of the image without Docker: the steps of the Dockerfile in a chroot of Debian, then the main job as the image's user.

    python deploy/chroot.py [ROOT] [--suite bookworm] [--bind FOLDER ...]

It needs root, debootstrap, and what the build needs of the network; the main job has none. Settings of pip (PIP_... in the
environment, /etc/pip.conf, /etc/xdg/pip) hold inside, too; `--bind` shows a folder that they name. ROOT is made anew and stays.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import string
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
SHELL = ("/bin/sh", "-c")
BARE = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
PIP_FILES = ("/etc/pip.conf", "/etc/xdg/pip")
CERTIFICATES = "/etc/ssl/certificates-of-the-host.crt"
SMALL = (
    *("--data.patch_size", "[48,48,4]", "--data.frames", "2", "--model.channels", "[8,16]"),
    *("--train.epochs", "2", "--train.steps_per_epoch", "5", "--train.batch_size", "1"),
)
"""A short training of a fixed number of steps, because a budget of time is refused where others take the cores."""
JOB = (
    ("phantom", "--out", "/runs/phantom", "--subjects", "3", "--frames", "6"),
    (*("train", "--dataset", "/runs/phantom", "--out", "/runs/first"), *SMALL),
    ("predict", "/runs/first", "-i", "/runs/phantom", "-o", "/runs/predicted"),
)


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Yield the instructions of a Dockerfile, each with the rest of its line; continued lines are joined."""
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", "").splitlines()
    yield from ((name, rest) for name, _, rest in (line.partition(" ") for line in lines if line.strip()))


class Image:
    """Root file system with what a Dockerfile has set so far: environment, arguments, user and folder."""

    def __init__(self, root: Path, arguments: Mapping[str, str]) -> None:
        self.root, self.given = root, arguments
        self.environment, self.arguments = dict(BARE), {}
        self.user, self.folder, self.entrypoint = "0", "/", []

    def carry_out(self, name: str, rest: str) -> None:
        """Carry out one instruction; those that describe the image alone change nothing."""
        if name == "RUN":
            mounts = re.findall(r"--mount=(\S+)", rest)
            with_arguments = self.arguments | self.environment
            self.call((*SHELL, re.sub(r"--mount=\S+\s*", "", rest)), with_arguments, mounts=mounts)
        elif name == "ARG":
            variable, _, default = rest.partition("=")
            if value := self.given.get(variable, default):
                self.arguments[variable] = value
        elif name == "ENV":
            known = string.Template(rest).safe_substitute(self.arguments | self.environment)
            self.environment |= dict(pair.split("=", 1) for pair in shlex.split(known))
        elif name == "USER":
            self.user = rest
        elif name == "WORKDIR":
            self.folder = rest
        elif name == "ENTRYPOINT":
            self.entrypoint = json.loads(rest)

    def call(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        mounts: Sequence[str] = (),
        network: bool = True,
    ) -> None:
        """Run a command inside, as the user of the image; `mounts` are bound, as BuildKit does, while it runs."""
        with_folder = f"cd {shlex.quote(self.folder)} && exec {shlex.join(command)}"
        inside = ["chroot", f"--userspec={self.user}", str(self.root), "/usr/bin/env", "-i"]
        inside += [*(f"{key}={value}" for key, value in environment.items()), *SHELL, with_folder]
        bound = [self._bind(mount) for mount in mounts if mount.startswith("type=bind")]
        try:
            subprocess.run(inside if network else ["unshare", "--net", *inside], check=True)
        finally:
            for target in bound:
                subprocess.run(["umount", target], check=True)

    def _bind(self, mount: str) -> Path:
        """Show a file of the build's context inside; return where."""
        options = dict(option.split("=", 1) for option in mount.split(",") if "=" in option)
        source = self.root.parent / "context" / options.get("source", "")
        return bind(source, self.root / options["target"].lstrip("/"))


def bind(source: Path, target: Path) -> Path:
    """Mount a file or folder somewhere else, to be read only; return where."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.mkdir(exist_ok=True) if source.is_dir() else target.touch()
    subprocess.run(["mount", "--bind", source, target], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", target], check=True)
    return target


def write_context(folder: Path) -> None:
    """Copy what .dockerignore lets into the image."""
    folder.mkdir()
    for line in (CHECKOUT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        source = CHECKOUT / line.removeprefix("!")
        if line.startswith("!") and source.is_dir():
            shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__", "*.py[co]"))
        elif line.startswith("!"):
            shutil.copy(source, folder)


def try_image(root: Path, suite: str, folders: Sequence[Path]) -> None:
    """Build the root file system and run the main job in it."""
    root.mkdir(parents=True)
    write_context(root.parent / "context")
    subprocess.run(["debootstrap", "--variant=minbase", suite, root], check=True, stdout=subprocess.DEVNULL)
    for folder in ("/proc", "/dev"):
        subprocess.run(["mount", "--rbind", folder, root / folder[1:]], check=True)
    for path in (*map(Path, PIP_FILES), *folders):
        if path.exists():
            bind(path, root / path.relative_to("/"))
    pip = {key: value for key, value in os.environ.items() if key.startswith("PIP_")}
    if "PIP_CERT" in pip:
        (root / CERTIFICATES.lstrip("/")).parent.mkdir(exist_ok=True)
        shutil.copy(pip["PIP_CERT"], root / CERTIFICATES.lstrip("/"))
        pip["PIP_CERT"] = CERTIFICATES
    image = Image(root, {"BASE": f"debian:{suite}"} | pip)
    image.arguments |= pip
    for name, rest in instructions((CHECKOUT / "Dockerfile").read_text(encoding="utf-8")):
        began = time.monotonic()
        image.carry_out(name, rest)
        print(f"[{time.monotonic() - began:6.1f} s] {name} {rest[:100]}", flush=True)
    for words in JOB:
        began = time.monotonic()
        image.call((*image.entrypoint, *words), image.environment, network=False)
        print(f"[{time.monotonic() - began:6.1f} s] {shlex.join((*image.entrypoint, *words))}", flush=True)


def main() -> int:
    """Make the folder anew, in a mount namespace of its own, and print what the job wrote."""
    parser = argparse.ArgumentParser(description="the Dockerfile's steps and the main job in a chroot")
    parser.add_argument("root", type=Path, metavar="ROOT", nargs="?", default=CHECKOUT / "build" / "chroot" / "root")
    parser.add_argument("--suite", default="bookworm", help="release of Debian, with Python 3.11 or newer")
    parser.add_argument(
        "--bind", type=Path, nargs="*", default=[], help="folders to show inside, such as one of wheels"
    )
    given = parser.parse_args()
    missing = [name for name in ("debootstrap", "unshare", "chroot") if not shutil.which(name)]
    if os.geteuid() != 0 or missing:
        print(f"got user {os.geteuid()} and no {missing}, expected root and all of them; install them", file=sys.stderr)
        return 2
    if os.environ.get("UNET4D_CHROOT") != "inside":  # mounts end with this namespace, whatever happens
        command = ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv]
        return subprocess.run(command, env=os.environ | {"UNET4D_CHROOT": "inside"}).returncode
    for folder in (given.root, given.root.parent / "context"):
        shutil.rmtree(folder, ignore_errors=True)
    try_image(given.root, given.suite, given.bind)
    for path in sorted((given.root / "runs").glob("*/*")):
        print(f"{path.stat().st_size:10,d}  /{path.relative_to(given.root)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
