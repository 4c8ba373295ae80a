"""A headless Chromium, told what to do over a pipe (the DevTools protocol), and a page in it."""

import fcntl
import json
import os
import shutil
import subprocess
import time

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


class Page:
    def __init__(self, profile):
        told, self._tell = os.pipe()
        self._hear, heard = os.pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        high = [fcntl.fcntl(one, fcntl.F_DUPFD, 10) for one in (told, heard)]  # it reads at 3 and writes at 4
        without = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(
            [CHROMIUM, *flags, "about:blank"],
            preexec_fn=lambda: (os.dup2(high[0], 3), os.dup2(high[1], 4)),
            pass_fds=(3, 4),
            env=without,
            **quiet,
        )
        for one in (told, heard, *high):
            os.close(one)
        self._number, self._data, self._session = 0, b"", None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def ask(self, method, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._tell, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._data:
                self._data += os.read(self._hear, 65536)
            line, _, self._data = self._data.partition(b"\0")
            answer = json.loads(line)
            if answer.get("id") == self._number:
                return answer["result"]

    def open(self, url):
        self.ask("Page.navigate", url="about:blank")  # another fragment alone would load nothing
        self.ask("Page.navigate", url=url)

    def do(self, script):
        """The value of a JavaScript expression."""
        return self.ask("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def wait_for(self, script, seconds=30):
        end = time.monotonic() + seconds
        while not (value := self.do(script)):
            assert time.monotonic() < end, self.do("document.body.innerText")
            time.sleep(0.05)
        return value

    def close(self):
        self._process.kill()
        self._process.wait()
        os.close(self._tell)
        os.close(self._hear)
