"""Upload a converted folder to the Hugging Face Hub."""

import threading
from pathlib import Path

from mlx_diffucoder.errors import HubError
from mlx_diffucoder.hub import check_login, hub_errors
from mlx_diffucoder.hub.background import Tell, in_background

LONGEST_SILENCE = 60
"""Seconds that an upload waits for a connection and for each answer."""


def check_upload(repo: str) -> None:
    """Raise `HubError` if an upload to `repo` cannot work. Called before a long conversion."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
        if "/" not in repo:
            raise HFValidationError("it needs an owner, as in owner/name")
    except HFValidationError as error:
        raise HubError(f"upload {repo}: not a valid Hub id ({str(error).splitlines()[0]})", field="upload") from None
    check_login(repo)


def upload_folder(folder: Path, repo: str) -> str:
    """Upload every file of `folder` to the model repository `repo`, which is created if needed. Returns its URL."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import get_session

    def upload(tell: Tell) -> str:
        get_session().timeout = LONGEST_SILENCE
        address = HfApi().create_repo(repo_id=repo, repo_type="model", exist_ok=True)
        HfApi().upload_folder(
            repo_id=repo, repo_type="model", folder_path=folder, commit_message="Converted to MLX by mlx_diffucoder"
        )
        return str(address)

    with hub_errors(repo, "uploaded", f"check the network; {folder} is complete, and `hf upload {repo} {folder}` tries again"):
        # Without a limit of its own: the client tells nothing of what it has sent.
        [address] = in_background([upload], what=repo, limit=threading.TIMEOUT_MAX, on_event=lambda event: None)
    return address
