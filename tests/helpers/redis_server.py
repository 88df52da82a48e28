"""A Redis server for one test, on a socket in a folder."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

MISSING = "no redis-server here (Debian has it in the package redis-server)"


class Server:
    """`redis-server` on a Unix socket; can be killed and started again."""

    def __init__(self, folder: Path, *options: str, persistent: bool = True) -> None:
        if shutil.which("redis-server") is None:
            pytest.skip(MISSING)
        # The path of a socket must be short, and test folders may have long paths.
        self.socket = Path(tempfile.gettempdir()) / f"transom-{abs(hash(str(folder)))}.sock"
        self.url = f"unix://{self.socket}"
        self.folder = folder
        self.options = [*options, "--appendonly", "yes" if persistent else "no"]
        self.start()

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        options = ["--port", "0", "--unixsocket", str(self.socket), "--save", "", "--dir"]
        self.process = subprocess.Popen(
            ["redis-server", *options, str(self.folder), *self.options],
            stdout=subprocess.DEVNULL,
        )
        import redis

        client = redis.Redis(unix_socket_path=str(self.socket))
        for _ in range(200):
            try:
                client.ping()
                return
            except redis.exceptions.RedisError:
                time.sleep(0.02)
        raise RuntimeError("redis-server does not answer")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.kill()
        self.socket.unlink(missing_ok=True)
