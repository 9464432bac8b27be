"""Endpoints that are not the bottleneck: nginx where it is installed, else `bench.receiver`."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from demo.servers import free_port


def nginx_program() -> str | None:
    return shutil.which("nginx", path="/usr/sbin:/usr/bin")


@contextmanager
def endpoint(folder: Path, *, timed: bool) -> Iterator[tuple[str, Path]]:
    """A running endpoint: its URL, and the file a `timed` one writes arrivals to as it ends."""
    port = free_port()
    arrivals = folder / f"arrivals-{port}"
    nginx = nginx_program()
    if timed or nginx is None:
        command = [sys.executable, "-m", "bench.receiver", str(port), str(arrivals)]
    else:
        configuration = folder / f"nginx-{port}.conf"
        configuration.write_text(_NGINX.format(folder=folder, port=port))
        command = [nginx, "-c", str(configuration), "-e", str(folder / "nginx.log")]
    process = subprocess.Popen(command)
    try:
        yield f"http://127.0.0.1:{port}/hook", arrivals
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


_NGINX: Final = """
daemon off; worker_processes 1; pid {folder}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi; keepalive_requests 1000000000;
    server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ return 200; }} }}
}}
"""
