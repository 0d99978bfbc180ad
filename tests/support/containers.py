"""Containers of images that buildah has built, confined as Kubernetes confines pods."""

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Buildah = Callable[..., str]


@dataclass(frozen=True, slots=True)
class Container:
    """The files of an image, mounted, what the image says of how to run them, and the digests of its layers."""

    root: Path
    config: Mapping[str, Any]
    layers: tuple[str, ...]

    def command(
        self,
        *words: str,
        environment: Mapping[str, str] | None = None,
        mounts: Mapping[str, Path | None] | None = None,
        read_only: bool = True,
    ) -> list[str]:
        """What runs the words as the image's user, in a mount namespace of its own, which ends with them.

        `mounts` are folders of this machine by their places there; None is an empty one, in memory. Without any,
        /tmp is one. The network is this machine's. (`buildah run` has a root that can be written, passes no signals
        on, and now and then loses what a short command prints.)
        """
        root = shlex.quote(str(self.root))
        lines = [f"mount --bind {root} {root}"]
        lines += [f"mount --rbind /{one} {root}/{one}" for one in ("proc", "dev", "sys")]
        for place, source in ({"/tmp": None} if mounts is None else mounts).items():
            at = shlex.quote(f"{self.root}{place}")
            what = f"--bind {shlex.quote(str(source))}" if source else "-t tmpfs -o mode=1777 tmpfs"
            lines += [f"mkdir -p {at}", f"mount {what} {at}"]
        if read_only:
            lines.append(f"mount -o remount,bind,ro {root}")
        start = f'exec chroot --userspec={self.config["User"]} {root} env -i --chdir={self.config["WorkingDir"]} "$@"'
        variables = [*self.config["Env"], *(f"{name}={value}" for name, value in (environment or {}).items())]
        return ["unshare", "--mount", "bash", "-euc", "\n".join([*lines, start]), "container", *variables, *words]


def container_of(buildah: Buildah, image: str) -> Container:
    """A new container of the image."""
    told = json.loads(buildah("inspect", "--type", "image", image))["OCIv1"]
    root = Path(buildah("mount", buildah("from", "--pull=never", image)))
    return Container(root, told["config"], tuple(told["rootfs"]["diff_ids"]))
