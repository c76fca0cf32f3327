"""Which model a run is about, and how it is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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
        """What `streaming` wants to know beside the checkpoint."""
        return {
            "dtype": self.dtype,
            "device": self.device,
            "resident": self.resident,
            "objective": self.objective,
        }
