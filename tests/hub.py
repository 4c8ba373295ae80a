"""A Hub of one repository on this machine, for the client library to talk to."""

import base64
import hashlib
import http.server
import json
import re
import threading
import time
from contextlib import contextmanager

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class LocalHub:
    """Serves a folder as a repository, with faults.

    Attributes:
        asked: the path of each request, and where its range begins.
        faults: (kind, regular expression for a path, times, value) each, the first that matches being used up:
            a status code (value: headers), `drop` (the body ends in its middle), `stall` (and says no more),
            `hang` (no answer), `slow` (the body takes a second), `corrupt` (the second half is wrong), `size` (the list says
            value more bytes).
        stated: whether the list has hashes and sizes, as the Hub's has.
    """

    def __init__(self, repo, folder, *, claimed_size=None, stated=True):
        self.repo, self.folder, self.claimed_size, self.stated = repo, folder, claimed_size, stated
        self.asked, self.faults, self.names = [], [], []
        self.licence = "---\nlicense: mit\n---\n"

    @property
    def weights(self):
        """The names of the weights and the code that were fetched."""
        return [path.rsplit("/", 1)[1] for path, _ in self.asked if path.endswith((".safetensors", ".py", ".jsonl"))]

    def content(self, name):
        if name == "README.md" and not (self.folder / name).exists():
            return self.licence.encode()
        return (self.folder / name).read_bytes()

    def files(self):
        return sorted({file.name for file in self.folder.iterdir()} | {"README.md"})

    def fault(self, path):
        for number, (kind, match, times, value) in enumerate(self.faults):
            if times and re.search(match, path):
                self.faults[number] = (kind, match, times - 1, value)
                return kind, value
        return None, None

    def entry(self, name, more):
        content = self.content(name)
        large = name.endswith(".safetensors")
        size = self.claimed_size if self.claimed_size and large else len(content) + more
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        lfs = {"lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 134}} if large else {}
        return {"rfilename": name, "size": size} | ({"blobId": oid, **lfs} if self.stated else {})

    def listing(self, more):
        files = [self.entry(name, more) for name in self.files()] + [{"rfilename": name, "size": 9} for name in self.names]
        return json.dumps({"id": self.repo, "sha": COMMIT, "siblings": files}).encode()

    def answer(self, path, since):
        """Status, headers, body and how much of the body is sent; None for none."""
        kind, value = self.fault(path)
        if kind == "hang":
            return None
        if isinstance(kind, int):
            return kind, value or {}, b"{}", 1
        if path.startswith(f"/api/models/{self.repo}"):
            if "/revision/" in path and path.rsplit("/", 1)[1] not in ("main", "v1", COMMIT):
                return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}", 1
            return 200, {}, self.listing(value if kind == "size" else 0), 1
        name = path.rsplit("/", 1)[1]
        if not path.startswith(f"/{self.repo}/resolve/") or name not in self.files():
            return 404, {"X-Error-Code": "RepoNotFound" if "/api/" in path else "EntryNotFound"}, b"{}", 1
        body = self.content(name)
        etag = hashlib.sha1(body, usedforsecurity=False).hexdigest()
        if kind == "corrupt":
            body = body[: len(body) // 2] + bytes(one ^ 0x55 for one in body[len(body) // 2 :])
        sent = {"drop": 0.5, "stall": -0.5, "slow": 2}.get(kind, 1)
        return 206 if since else 200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, body[since:], sent

    def handler(self):
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                path, span = self.path.split("?")[0], self.headers["Range"]
                since = int(span.removeprefix("bytes=").split("-")[0]) if span else 0
                if self.command == "GET" and "harness" not in path:
                    hub.asked.append((path, since))
                if (reply := hub.answer(path, since)) is None:
                    time.sleep(600)
                    return
                status, headers, body, sent = reply
                self.send_response(status)
                for key, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "GET" and sent > 1:
                    for start in range(0, len(body), -(-len(body) // 20)):
                        self.wfile.write(body[start : start - (-len(body) // 20)])
                        time.sleep(0.05)
                elif self.command == "GET":
                    self.wfile.write(body[: int(len(body) * abs(sent))])
                time.sleep(600 if sent < 0 else 0)
                self.close_connection |= sent < 1

            do_HEAD = do_GET

            def log_message(self, *args):
                pass

        return Handler


@contextmanager
def local_hub(repo, folder, **options):
    """Serve `folder` as `repo`; yields the endpoint and the `LocalHub`."""
    hub = LocalHub(repo, folder, **options)
    with _serving(hub.handler()) as endpoint:
        yield endpoint, hub


@contextmanager
def receiving_hub(repo, *, refuse=None, hang=None):
    """A Hub that takes files for `repo`; yields its endpoint, what was asked of it, and the files it got.

    `refuse` is the end of a path that is answered with 403, `hang` of one that is not answered.
    """
    asked, files = [], {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            path = self.path.split("?")[0]
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked.append(path)
            here = f"http://{self.headers['Host']}/{repo}"
            if hang and path.endswith(hang):
                time.sleep(600)
            if refuse and path.endswith(refuse):
                return self.answer({}, 403)
            if path == "/api/whoami-v2":
                return self.answer({"name": repo.split("/")[0], "type": "user", "orgs": []})
            if path == "/api/repos/create":
                return self.answer({"url": here, "id": repo})
            if path.endswith("/preupload/main"):
                names = [file["path"] for file in json.loads(body)["files"]]
                return self.answer({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
            if path == f"/api/models/{repo}/commit/main":
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                done = {"success": True, "commitOid": COMMIT, "commitUrl": f"{here}/commit/{COMMIT}", "commitMessage": ""}
                return self.answer(done)
            self.answer({})

        do_GET = do_POST

        def answer(self, value, status=200):
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with _serving(Handler) as endpoint:
        yield endpoint, asked, files


@contextmanager
def _serving(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.socket.close()  # not server_close(), which waits for requests that hang
