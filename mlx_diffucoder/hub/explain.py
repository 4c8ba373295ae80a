"""What the Hub's client raises, as one line that says what to do.

The client's HTTP library is another one in each of its major versions, so its errors are known here by their names.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from ..errors import DiffucoderError, HubError

NO_DOWNLOAD = "check the network and the disk, name a folder, or use -m pocket, which is never downloaded"
PASSING = frozenset((408, 425, 429, 500, 502, 503, 504))
"""Status codes that another try may not see."""


class WrongSize(ConnectionError):
    """An answer ended before the file did. It may have been cut off, so it is tried again."""


class NotOnHub(HubError):
    """The Hub has no such repository, or does not show it to this user."""


class NoRevision(HubError):
    """The repository has no such branch, tag or commit."""


def constants() -> ModuleType:
    """The settings of the Hub's client. Raises `HubError` where a variable has a value that it cannot use."""
    try:
        from huggingface_hub import constants

        if constants.HF_HUB_DOWNLOAD_TIMEOUT < 0:
            raise HubError(f"HF_HUB_DOWNLOAD_TIMEOUT={constants.HF_HUB_DOWNLOAD_TIMEOUT}: must be a number of seconds; unset it")
        return constants
    except ValueError as error:
        named = [name for name, value in os.environ.items() if name.startswith("HF_") and value and repr(value) in str(error)]
        names = " and ".join(f"{name}={os.environ[name]}" for name in named) or "a variable that begins with HF_"
        raise HubError(f"{names}: is no number; unset it, or set a number ({error})") from None


def is_a(error: BaseException, *names: str) -> bool:
    """Whether an error is of a class that has one of these names."""
    return any(one.__name__ in names for one in type(error).__mro__)


def status_of(error: BaseException) -> int | None:
    """The status code of the answer that an error is about."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _header(error: BaseException, name: str) -> str:
    return (getattr(getattr(error, "response", None), "headers", None) or {}).get(name) or ""


def wait_of(error: BaseException) -> float | None:
    """The seconds that the Hub asks to wait (`Retry-After`), or None."""
    value = _header(error, "Retry-After").strip()
    return float(value) if value.isascii() and value.isdecimal() and len(value) < 9 else None


def passes(error: BaseException) -> bool:
    """Whether the same request may work in a moment."""
    if (status := status_of(error)) is not None and status >= 400:
        return status in PASSING
    if is_a(error, "UnsupportedProtocol", "LocalProtocolError", "InvalidURL"):
        return False
    return is_a(error, "TransportError", "JSONDecodeError", "WrongSize")


def timed_out(error: BaseException) -> bool:
    """Whether nobody answered in time."""
    return is_a(error, "TimeoutException", "TimeoutError")


def _host_of(error: BaseException) -> str:
    """The address that a request went to."""
    try:
        url: Any = error.request.url  # type: ignore[attr-defined]
        return f"{url.scheme}://{url.netloc.decode()}"
    except (AttributeError, RuntimeError):
        return str(constants().ENDPOINT)


@contextmanager
def hub_errors(repo: str, done: str = "downloaded", advice: str = NO_DOWNLOAD) -> Iterator[None]:
    """Turn what the Hub's client and the disk raise into a `HubError` of one line.

    Args:
        done: the participle of what is attempted with `repo`.
        advice: what to do where the reason is not known.
    """
    try:
        yield
    except (DiffucoderError, BrokenPipeError):  # this process's own output
        raise
    except Exception as error:  # classes of the HTTP library, which differs between versions
        raise hub_error(error, repo, done=done, advice=advice) from None


def hub_error(
    error: Exception, repo: str, *, what: str = "", timeout: float = 0, done: str = "downloaded", advice: str = NO_DOWNLOAD
) -> HubError:
    """An error of the Hub's client as one line.

    Args:
        what: what was asked for, such as a file's name.
        timeout: the seconds that were waited for it.
        done, advice: as for `hub_errors`.
    """
    if isinstance(error, HubError):
        return error
    gone, unknown = (is_a(error, f"{what}NotFoundError") for what in ("Revision", "Repository"))
    kind = NoRevision if gone else NotOnHub if unknown and not is_a(error, "GatedRepoError") else HubError
    about = f"{repo}: {what}: " if what else f"{repo}: "
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return kind(_explain(error, repo, about, lines[0], timeout) or f"{about}cannot be {done} ({lines[0]}); {advice}")


def _explain(error: Exception, repo: str, about: str, said: str, timeout: float) -> str | None:
    status, host = status_of(error), _host_of(error)
    if is_a(error, "LocalTokenNotFoundError"):
        return f"{repo}: you are not logged in to the Hub; run `hf auth login` first"
    if status in (401, 403) or is_a(error, "GatedRepoError", "RepositoryNotFoundError"):
        return _refused(error, repo, about)
    if status == 429:
        wait = wait_of(error)
        return f"{about}too many requests, says the Hub; try again {f'in {wait:.0f} s' if wait else 'later'}"
    if status == 404:
        return f"{about}{host} does not have it (status 404); check the name, and HF_ENDPOINT if you set it"
    if status is not None and status >= 400:
        return f"{about}{host} refused (status {status}); try again later"
    if is_a(error, "UnsupportedProtocol", "InvalidURL"):
        return f"{about}HF_ENDPOINT={constants().ENDPOINT} is no address; unset it, or begin it with https://"
    if isinstance(error, UnicodeEncodeError):  # headers are ASCII, and nothing else of a user's is in them
        return f"{about}your token (HF_TOKEN, or that of `hf auth login`) holds characters that no token has; set it again"
    if timed_out(error):
        within = f" within {timeout:g} s" if timeout else ""
        return f"{about}no answer from {host}{within}; check the network, and run the same command again"
    if is_a(error, "WrongSize"):
        return f"{about}{said}; try again later"
    if is_a(error, "TransportError") and about != f"{repo}: " and not is_a(error, "ConnectError"):
        return f"{about}the connection broke ({said}); run the same command again: it keeps what has arrived"
    if is_a(error, "JSONDecodeError", "KeyError", "TypeError", "AttributeError"):
        return f"{about}the answer of {host} cannot be read ({said}); check HF_ENDPOINT, or try later"
    if isinstance(error, OSError) and error.filename:
        return f"{about}{error.filename}: {error.strerror or error}; HF_HOME sets another folder for the cache"
    return None


def _refused(error: BaseException, repo: str, about: str) -> str:
    from huggingface_hub import get_token

    status, code = status_of(error), _header(error, "X-Error-Code")
    token = next((name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if os.environ.get(name, "").strip()), None)
    token = token or ("the token of `hf auth login`" if get_token() else None)
    if is_a(error, "GatedRepoError") or code == "GatedRepo":
        how = f"use a token of that account ({token} has no access)" if token else "run `hf auth login` or set HF_TOKEN"
        return f"{repo}: is gated: accept its terms at {constants().ENDPOINT}/{repo}, then {how}"
    if code == "RepoNotFound" or (status == 401 and not token):
        how = f"for a private one, {token} needs access to it" if token else "for a private one, run `hf auth login`"
        return f"{repo}: no such model on the Hub ({how})"
    if token:
        how = f"set {token} to a valid one, or unset it" if "TOKEN" in token else "run `hf auth login` again"
        return f"{repo}: the Hub refuses your token ({token}, status {status}); {how}"
    return f"{about}the Hub refuses access (status {status}); run `hf auth login` or set HF_TOKEN"
