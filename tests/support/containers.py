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
    """An image's mounted files, its configuration, and the digests of its layers."""

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
        """The command that runs the words as the image's user, in a separate mount namespace.

        `mounts` maps paths in the container to folders of this machine, or to None for an empty folder in memory; by
        default /tmp is one. The network is the host's. (`buildah run` has a writable root, forwards no signals and
        sometimes loses the output of a short command.)
        """
        root = shlex.quote(str(self.root))
        lines = [f"mount --bind {root} {root}"]
        lines += [f"mount --rbind /{one} {root}/{one}" for one in ("proc", "dev", "sys")]
        for target, source in ({"/tmp": None} if mounts is None else mounts).items():
            at = shlex.quote(f"{self.root}{target}")
            what = f"--bind {shlex.quote(str(source))}" if source else "-t tmpfs -o mode=1777 tmpfs"
            lines += [f"mkdir -p {at}", f"mount {what} {at}"]
        if read_only:
            lines.append(f"mount -o remount,bind,ro {root}")
        start = f'exec chroot --userspec={self.config["User"]} {root} env -i --chdir={self.config["WorkingDir"]} "$@"'
        variables = [*self.config["Env"], *(f"{name}={value}" for name, value in (environment or {}).items())]
        return ["unshare", "--mount", "bash", "-euc", "\n".join([*lines, start]), "container", *variables, *words]


def container_of(buildah: Buildah, image: str) -> Container:
    """A new container of the image."""
    image_config = json.loads(buildah("inspect", "--type", "image", image))["OCIv1"]
    root = Path(buildah("mount", buildah("from", "--pull=never", image)))
    return Container(root, image_config["config"], tuple(image_config["rootfs"]["diff_ids"]))
