"""A Hub of one repository on this machine, for the client library to talk to."""

import base64
import hashlib
import http.server
import json
import threading
from contextlib import contextmanager

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def local_hub(repo, folder, *, claimed_size=None, gated=False):
    """Serve `folder` as `repo`; yields the endpoint and the list of files that were fetched.

    `claimed_size` makes every weight file's listed size this many bytes.
    """
    fetched = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.split("?")[0]
            if not path.startswith((f"/api/models/{repo}", f"/{repo}/resolve/")):
                return self.reply(b"{}", 404, {"X-Error-Code": "RepoNotFound"})
            if gated:
                return self.reply(b"{}", 403, {"X-Error-Code": "GatedRepo"})
            if "/resolve/" in path:
                name = path.rsplit("/", 1)[1]
                content = (folder / name).read_bytes()
                if self.command == "GET":
                    fetched.append(name)
                etag = hashlib.sha1(content, usedforsecurity=False).hexdigest()
                return self.reply(content, 200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
            if "/tree/" in path:
                return self.reply(json.dumps([self.entry(file) for file in sorted(folder.iterdir())]).encode())
            files = [{"rfilename": file.name, "size": self.entry(file)["size"]} for file in sorted(folder.iterdir())]
            self.reply(
                json.dumps(
                    {"id": repo, "sha": COMMIT, "siblings": files, "private": False, "cardData": {"license": "mit"}}
                ).encode()
            )

        do_HEAD = do_GET

        def entry(self, file):
            size = claimed_size if claimed_size and file.suffix == ".safetensors" else file.stat().st_size
            return {"type": "file", "path": file.name, "size": size, "oid": "0" * 40}

        def reply(self, body, status=200, headers=None):
            self.send_response(status)
            for key, value in {**(headers or {}), "Content-Length": str(len(body)), "Content-Type": "application/json"}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *args):
            pass

    with _serving(Handler) as endpoint:
        yield endpoint, fetched


@contextmanager
def receiving_hub(repo, *, refuse=None):
    """A Hub that takes files for `repo`; yields its endpoint, what was asked of it, and the files it got.

    `refuse` is the end of a path that is answered with 403.
    """
    asked, files = [], {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            path = self.path.split("?")[0]
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked.append(path)
            here = f"http://{self.headers['Host']}/{repo}"
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
        server.server_close()
