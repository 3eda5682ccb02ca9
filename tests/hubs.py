"""A stand-in for the Hugging Face Hub on this machine, and caches to look into: tests of loading need no network."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

Repos = dict[str, tuple[str, Path]]  # `models/NAME` or `datasets/NAME` -> its only revision (40 digits) and its files


def use_cache(monkeypatch, folder: Path) -> None:
    """Let huggingface_hub and transformers look for downloads in `folder` alone, in this process."""
    import transformers.utils.hub as transformers_hub
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    for name in ("TRANSFORMERS_CACHE", "HF_HUB_CACHE"):
        if hasattr(transformers_hub, name):
            monkeypatch.setattr(transformers_hub, name, str(folder))


@contextlib.contextmanager
def stand_in(repos: Repos) -> Iterator[str]:
    """Serve repositories as the Hub does, as far as downloads need it; gives the address (HF_ENDPOINT)."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"repos": repos}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    repos: Repos

    def log_message(self, *_) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path == "/":
            return self._send(b"")
        for name, (revision, folder) in self.repos.items():
            short = name.removeprefix("models/")
            if match := re.fullmatch(rf"/{short}/resolve/(main|{revision})/(.+)", path):
                file = folder / match[2]
                return self._file(file, revision) if file.is_file() else self._missing("EntryNotFound")
            if re.fullmatch(rf"/api/{name}/tree/[^/]+/.+", path):
                return self._missing("EntryNotFound")  # folders of a repository: these have none
            if match := re.fullmatch(rf"/api/{name}(|/revision/[^/]+|/tree/[^/]+)", path):
                return self._listing(name, revision, folder, tree="/tree/" in match[1])
        self._missing("RepoNotFound")

    def _listing(self, name: str, revision: str, folder: Path, tree: bool) -> None:
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        paths = [str(file.relative_to(folder)) for file in files]
        found = [{"type": "file", "path": path, "size": file.stat().st_size, "oid": _digest(file)[:40]}
                 for path, file in zip(paths, files)]
        about = {"id": name.partition("/")[2], "sha": revision, "siblings": [{"rfilename": path} for path in paths]}
        self._send(json.dumps(found if tree else about).encode(), {"Content-Type": "application/json"})

    def _file(self, file: Path, revision: str) -> None:
        self._send(file.read_bytes(), {"ETag": f'"{_digest(file)}"', "X-Repo-Commit": revision})

    def _missing(self, code: str) -> None:
        self._send(b"", {"X-Error-Code": code}, status=404)

    def _send(self, body: bytes, headers: dict[str, str] = {}, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
