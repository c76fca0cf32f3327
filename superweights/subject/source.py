"""Which model a run is about, and how it is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from superweights.errors import SuperweightsError


@dataclass(frozen=True)
class Source:
    """A model by name, and how it is opened; the same for every worker of a job."""

    name: Any = None
    """What a person writes (folder, file, org/name@revision), an open checkpoint, or a loaded transformers model with
    its weights in memory; None is the embedded model."""
    dtype: str = "auto"
    """The type to compute in; auto: as stored, but float16 in float32."""
    device: str = "auto"
    """Where to compute; auto: the accelerator where there is one."""
    allow_pickle: bool = False
    """Whether pickled weights may be read (with torch's restricted unpickler)."""
    trust_remote_code: bool = False
    """Whether code that the checkpoint brings along may run."""
    tokenizer: Any = None
    """The tokenizer of a loaded model, which knows none itself; a pair (model, tokenizer) as `name` says the same."""
    resident: bool | None = None
    """Whether the whole model stays in memory (True), or a block at a time (False); None: where it fits."""

    objective: str = "auto"
    """What is predicted: next-token, masked, embedding, seq2seq, image; auto: as the checkpoint's class says."""

    tensor_parallel: bool = False
    """Whether the processes that torchrun has started share the model, by transformers' tensor-parallel plan."""

    device_map: Any = None
    """Which blocks stay in memory and which wait on the disk: auto, a mapping of modules to devices as accelerate
    writes it, or a JSON file of one; None: as `resident` says."""

    @classmethod
    def of(cls, model: Any) -> Source:
        """`model` as a source: itself, or what it names opened with the defaults."""
        return model if isinstance(model, cls) else cls(model)

    @property
    def trust(self) -> dict[str, Any]:
        """What `open_checkpoint` wants to know beside the name."""
        return {"allow_pickle": self.allow_pickle, "trust_remote_code": self.trust_remote_code}

    @property
    def loading(self) -> dict[str, Any]:
        """What `streaming` wants to know beside the checkpoint.

        Raises `SuperweightsError` for a model that processes share: not everything can be asked of such.
        """
        if self.tensor_parallel:
            raise SuperweightsError(
                "Processes can share a model for find, score, ablate and scale only.",
                hint="leave --tensor-parallel (tensor_parallel=True) out.",
            )
        return self.shared_loading

    @property
    def shared_loading(self) -> dict[str, Any]:
        """The same, for what can be asked of a model that processes share, too."""
        more: dict[str, Any] = {"tensor_parallel": True} if self.tensor_parallel else {}
        if self.device_map is not None:
            more["device_map"] = self.device_map
        return more | {
            "dtype": self.dtype,
            "device": self.device,
            "resident": self.resident,
            "objective": self.objective,
        }
