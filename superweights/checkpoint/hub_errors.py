"""What the hub's refusals mean, in one sentence each, with what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from superweights.errors import SuperweightsError

# The HTTP library's own family of errors (httpx, under a name that differs between hub versions).
HTTP_ERRORS: type[Exception] = HfHubHTTPError.__bases__[0]

_LOGIN = "log in with an account that may read it: hf auth login."
_NETWORK = "check the connection; what was downloaded before opens offline with HF_HUB_OFFLINE=1."


@contextmanager
def explained(origin: str) -> Iterator[None]:
    """Turn what goes wrong between us and the hub into a `SuperweightsError` about `origin`."""
    try:
        yield
    except (
        HTTP_ERRORS,
        EntryNotFoundError,
        OfflineModeIsEnabled,
        HFValidationError,
        FileMetadataError,
    ) as error:
        raise _explain(error, origin) from error


def _explain(error: Exception, origin: str) -> SuperweightsError:
    """The sentence and hint for one error, the most particular first."""
    if isinstance(error, GatedRepoError):
        return SuperweightsError(
            f"{origin} is gated: its authors want their terms accepted first.",
            hint=f"accept them at {constants.ENDPOINT}/{origin.partition('@')[0]}, then hf auth login.",
        )
    if isinstance(error, RepositoryNotFoundError):
        return SuperweightsError(
            f"There is no {origin} here nor on the hub, or it is private.",
            hint=f"check the spelling, or {_LOGIN}",
        )
    if isinstance(error, RevisionNotFoundError):
        return SuperweightsError(
            f"The repository of {origin} has no such revision.",
            hint="give a branch, a tag or a commit of it.",
        )
    if isinstance(error, DisabledRepoError):
        return SuperweightsError(f"The hub has disabled {origin}.", hint="use another copy of the model.")
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
        return _unreachable(origin)
    if isinstance(error, EntryNotFoundError):
        return SuperweightsError(f"{origin} lacks a file that it should have.", hint="see its list of files.")
    if isinstance(error, HFValidationError):
        return SuperweightsError(f"{origin!r} cannot be the name of a model.", hint="write it like org/name.")
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        return _refused(error.response.status_code, origin)
    return SuperweightsError(f"The hub did not answer when asked for {origin}.", hint=_NETWORK)


def _unreachable(origin: str) -> SuperweightsError:
    if constants.is_offline_mode():
        return SuperweightsError(
            f"{origin} is not among the downloaded models, and offline mode is on.",
            hint="unset HF_HUB_OFFLINE, or download it first: hf download NAME.",
        )
    return SuperweightsError(
        f"{origin} is not among the downloaded models, nor can the hub be reached.", hint=_NETWORK
    )


def _refused(status: int, origin: str) -> SuperweightsError:
    if status == 401:
        return SuperweightsError(
            f"The hub refuses {origin}: it does not exist, is private, or the token is wrong.",
            hint=f"check the spelling, or {_LOGIN}",
        )
    if status == 403:
        return SuperweightsError(f"The hub refuses access to {origin} (HTTP {status}).", hint=_LOGIN)
    if status == 429:
        return SuperweightsError(f"The hub has had too many requests ({origin}).", hint="wait a few minutes.")
    return SuperweightsError(
        f"The hub failed when asked for {origin} (HTTP {status}).", hint="try again later."
    )
