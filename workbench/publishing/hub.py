"""The upload of a published folder to the Hugging Face Hub."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

from ..messages import ParameterError, WorkbenchError, one_line

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def require_hub(hub: str) -> None:
    """Raise a ParameterError or WorkbenchError unless `hub` names a repository, and its library is installed."""
    if not NAME.fullmatch(hub):
        raise ParameterError(f"hub={hub!r} is no repository; give user/name")
    if find_spec("huggingface_hub") is None:
        raise WorkbenchError(f"hub={hub!r} needs huggingface_hub: pip install 'sagan-workbench[hub]'")


def upload(folder: Path, hub: str) -> None:
    """Upload a folder as a model repository, which is made if it does not exist.

    A WorkbenchError if that fails; in one line, with the command that tries again.
    """
    from huggingface_hub import HfApi  # here, because it is an extra

    try:
        api = HfApi()
        api.create_repo(hub, exist_ok=True)
        api.upload_folder(repo_id=hub, folder_path=folder, commit_message="Publish a run of the SAGAN workbench")
    except Exception as error:  # of the network, the login, the server, or the library
        again = shlex.join(["hf", "upload", hub, str(folder)])
        raise WorkbenchError(f"hub={hub!r}: {one_line(error)}; the folder is complete, try again with: {again}") from None
